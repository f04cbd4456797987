from __future__ import annotations

import subprocess
import sys

import pytest

import medunet.phantoms
from medunet.errors import InputError
from medunet.phantoms import PHANTOMS, make_phantom_case


def test_names_and_labels():
    assert list(PHANTOMS) == ["male-pelvis-ct", "hippocampus-mr", "cells-microscopy", "stained-cells", "nuclei-2d"]
    assert dict(PHANTOMS["hippocampus-mr"].labels) == {"anterior": 1, "posterior": 2}
    assert list(PHANTOMS["male-pelvis-ct"].labels.values()) == [1, 2, 3, 4, 5, 6]
    assert (PHANTOMS["male-pelvis-ct"].modality, PHANTOMS["hippocampus-mr"].modality) == ("CT", "MR")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'pelvis'.*male-pelvis-ct, hippocampus-mr"):
        make_phantom_case("pelvis", 0)


def test_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -1"):
        make_phantom_case("hippocampus-mr", -1)


def test_public_names():
    assert set(medunet.phantoms.__all__) == {
        "PHANTOMS",
        "Phantom",
        "PhantomCase",
        "make_phantom_case",
        "write_phantom_dataset",
    }


def test_making_a_case_needs_neither_torch_nor_monai():
    code = (
        "import sys; from medunet.phantoms import make_phantom_case;"
        "make_phantom_case('hippocampus-mr', 0); print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False", "False"]
