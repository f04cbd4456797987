"""Real DICOM series against the NIfTI files that other software made of them, and the table of docs/geometry.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medunet.io import read_label_map, read_reference, read_structures
from medunet.io.dicom.read import read_dicom
from medunet.volume import align_to_grid

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_dicom_geometry", ROOT / "benchmarks/check_dicom_geometry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_docs_is_what_the_reader_does(real_data: Path, check: ModuleType) -> None:
    text = (ROOT / "docs/geometry.md").read_text(encoding="utf-8")
    table = text.split("<!-- table -->\n")[1].split("<!-- /table -->")[0]
    assert "\n".join(check.build_table(real_data / "dicom")) == table.strip()


def test_every_series_with_a_reference_lies_where_it_says(real_data: Path, check: ModuleType) -> None:
    num_compared = 0
    for path in check.list_inputs(real_data / "dicom"):
        reference = check.find_reference(path)
        if reference is None or "rgb" in str(path) or path.parent.name == "sliceincrement":
            continue  # a colour picture; and a series that needs resampling
        outcome = check.compare(read_dicom(path), reference)
        distance_mm, difference, extent = (
            float(part.split()[1]) for part in outcome.replace(" of ", ", x ").split(", ")
        )
        assert distance_mm < 0.01, path
        assert difference <= 1e-6 * extent, path
        num_compared += 1
    assert num_compared >= 16


@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_rtstruct_of_ibsi_gives_its_masks(real_data: Path, modality: str) -> None:
    folder = real_data / "dicom/sarcoma-ct-mr-pet-rtstruct"
    scan = read_reference(folder / modality / "image")
    structures = read_structures(folder / modality / "mask" / "RS.dcm", scan)
    expected = align_to_grid(
        read_label_map(folder / "nifti" / f"{modality}_mask.nii.gz"), scan.volume, "the published mask", "the series"
    )
    assert [structure.name for structure in structures.structures] != []
    masks = [structures.get_mask(structure) for structure in structures.structures]
    np.testing.assert_array_equal(np.any(masks, axis=0), expected.array[0] != 0)


def test_seven_series_are_told_apart(real_data: Path) -> None:
    from medunet.io import read_volume
    from medunet.io.dicom.series import list_series

    study = real_data / "dicom/prostate-mr-study-7-series"
    folder = list_series(study)
    assert [info.number for info in folder.series] == [3, 4, 5, 6, 7, 8, 9]
    assert [info.number for info in folder.series if not info.is_usable] == [6]
    assert read_volume(study, series="4").spatial_shape == (384, 384, 19)
    assert read_volume(study, series="_cor").orientation == "LIP"
    means = [read_volume(study, series="6", volume_index=index).array.mean() for index in range(3)]
    assert means == sorted(means, reverse=True)  # the larger the b-value, the darker
