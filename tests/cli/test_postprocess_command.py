"""``medunet postprocess`` for one mask and for folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medunet.cli.app import app
from medunet.errors import InputError, OutputError
from medunet.io import read_label_map, write_nifti_image, write_nifti_labels
from medunet.volume import Volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["postprocess", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def write_mask(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    array = np.zeros((1, 10, 9, 8), np.uint8)
    array[0, 2:7, 2:7, 2:7], array[0, 4, 4, 4], array[0, 9, 0, 0] = 2, 0, 2
    write_nifti_labels(Volume(array, AFFINE), path)


def count(path: Path) -> int:
    return int((read_label_map(path).array > 0).sum())


def test_one_mask(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii.gz")
    out = tmp_path / "o.nii.gz"
    text = run(tmp_path / "m.nii.gz", "-o", out, "--step", "fill-holes", "--step", "remove-small:ml=0.01")
    assert "label 2: fill-holes, 0 voxels removed, 1 added" in text
    assert "label 2: remove-small:ml=0.01, 1 voxels removed, 0 added" in text
    assert count(out) == 125
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path / "m.nii.gz", "-o", out, "--step", "fill-holes")
    with pytest.raises(OutputError, match="is the input"):
        run(tmp_path / "m.nii.gz", "-o", tmp_path / "m.nii.gz", "--step", "fill-holes", "--overwrite")


def test_a_folder_with_its_images_and_a_task(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        write_mask(tmp_path / "masks" / f"{name}.nii.gz")
        image = np.zeros((1, 10, 9, 8), np.float32)
        image[0, 2:7, 2:7, 2:7] = 100
        (tmp_path / "scans").mkdir(exist_ok=True)
        write_nifti_image(Volume(image, AFFINE), tmp_path / "scans" / f"{name}_0000.nii.gz")
    recipe = tmp_path / "task.yaml"
    recipe.write_text(
        "{name: organ-ct, title: Organ, modality: CT, channels: [ct], labels: {organ: 2}, intensity: none, "
        "postprocessing: {organ: [fill-holes, keep-largest]}}"
    )
    text = run(tmp_path / "masks", "-o", tmp_path / "out", "--task", recipe)
    assert text.count("organ: keep-largest, 1 voxels removed, 0 added") == 2
    assert [count(tmp_path / "out" / f"{name}.nii.gz") for name in ("p1", "p2")] == [125, 125]
    text = run(
        *(tmp_path / "masks", "-o", tmp_path / "crf", "--step", "crf:appearance=5", "--image", tmp_path / "scans"),
        *("--device", "cpu", "--format", "nrrd"),
    )
    assert text.count("crf: ") == 2
    assert count(tmp_path / "crf" / "p2.seg.nrrd") == 125
    (tmp_path / "scans" / "p2_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="holds 0 files for the mask 'p2'"):
        run(tmp_path / "masks", "-o", tmp_path / "x", "--step", "crf", "--image", tmp_path / "scans")


def test_a_mask_that_fails_costs_only_itself(tmp_path: Path) -> None:
    write_mask(tmp_path / "masks" / "p1.nii.gz")
    (tmp_path / "masks" / "p0.nii.gz").write_bytes(b"damaged")
    with pytest.raises(InputError, match="1 of 2 masks failed"):
        run(tmp_path / "masks", "-o", tmp_path / "out", "--step", "fill-holes")
    assert count(tmp_path / "out" / "p1.nii.gz") == 126


def test_what_does_not_fit_is_refused_first(tmp_path: Path) -> None:
    write_mask(tmp_path / "masks" / "p1.nii.gz")
    write_mask(tmp_path / "masks" / "p2.nii.gz")
    with pytest.raises(InputError, match="2 masks need an output folder"):
        run(tmp_path / "masks", "-o", tmp_path / "o.nii.gz", "--step", "fill-holes")
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path / "nothing.nii.gz", "-o", tmp_path / "o.nii.gz", "--step", "fill-holes")
    with pytest.raises(InputError, match="no step 'fil-holes'; did you mean 'fill-holes'"):
        run(tmp_path / "masks", "-o", tmp_path / "out", "--step", "fil-holes")
