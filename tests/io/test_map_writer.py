"""Maps that arrive slab by slab are the file that all at once would have given; or there is no file."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti_files import CANARY, KINDS, build_scan, read_raw_header

from medunet.errors import GeometryError, OutputError
from medunet.io import MapWriter, read_volume

GEOMETRY_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def make_probabilities(shape: tuple[int, ...] = (3, 17, 22, 31)) -> Any:
    scores = np.random.default_rng(0).random(shape).astype(np.float32)
    return scores / scores.sum(axis=0)


def put_in_parts(writer: MapWriter, numbers: Any, axis: int, edges: list[int]) -> None:
    """The last part first."""
    for start, stop in sorted(itertools.pairwise(edges), reverse=True):
        part = (slice(None),) * (axis + 1) + (slice(start, stop),)
        writer.put(numbers[part], slice(start, stop))


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("stored_as", ["uint8", "float32"])
def test_slabs_along_any_axis_in_any_order(
    tmp_path: Path, make_volume: Any, axis: int, ending: str, stored_as: Any
) -> None:
    scan, numbers = make_volume(), make_probabilities()
    path = tmp_path / f"map{ending}"
    with MapWriter(path, scan, num_channels=3, axis=axis, stored_as=stored_as) as writer:
        put_in_parts(writer, numbers, axis, [0, 1, 8, numbers.shape[axis + 1]])
    again = read_volume(path)
    np.testing.assert_allclose(again.array, numbers, atol=0 if stored_as == "float32" else 0.5 / 255 + 1e-6)
    np.testing.assert_allclose(again.affine, scan.affine, rtol=1e-6, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_slab_sizes_and_axes_do_not_change_a_byte(tmp_path: Path, make_volume: Any) -> None:
    scan, numbers = make_volume(), make_probabilities()
    for number, (axis, edges) in enumerate([(2, [0, 31]), (2, list(range(32))), (0, [0, 5, 17]), (1, [0, 22])]):
        with MapWriter(tmp_path / f"{number}.nii.gz", scan, num_channels=3, axis=axis) as writer:
            put_in_parts(writer, numbers, axis, edges)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_more_planes_than_are_handled_at_once(tmp_path: Path, make_volume: Any) -> None:
    scan = make_volume(shape=(3, 4, 200))
    numbers = np.random.default_rng(0).random((1, 3, 4, 200)).astype(np.float32)
    for axis in range(3):
        with MapWriter(tmp_path / "map.nii", scan, axis=axis, stored_as="float32") as writer:
            put_in_parts(writer, numbers, axis, [0, 1, numbers.shape[axis + 1]])
        np.testing.assert_array_equal(read_volume(tmp_path / "map.nii").array, numbers)


def test_a_byte_holds_0_to_1_for_every_reader(tmp_path: Path, make_volume: Any) -> None:
    numbers = np.array([0, 1, 0.5, -0.1, 1.2, 1 / 255]).reshape(1, 1, 2, 3)
    with MapWriter(tmp_path / "map.nii", make_volume(shape=(1, 2, 3))) as writer:
        writer.put(numbers, slice(0, 3))
    stored = nib.load(tmp_path / "map.nii")
    assert stored.get_data_dtype() == np.uint8
    np.testing.assert_allclose(stored.get_fdata().ravel(), [0, 1, 128 / 255, 0, 1, 1 / 255], atol=1e-7)
    assert stored.get_fdata().max() <= 1
    assert float(stored.header["cal_max"]) == 1


def test_codes_are_taken_as_they_are(tmp_path: Path, make_volume: Any) -> None:
    codes = np.array([0, 255, 7, 8, 9, 10], np.uint8).reshape(1, 1, 2, 3)
    with MapWriter(tmp_path / "map.nii", make_volume(shape=(1, 2, 3))) as writer:
        writer.put(codes, slice(0, 3))
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii").dataobj.get_unscaled(), codes[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_outside_of_the_box(tmp_path: Path, make_volume: Any, axis: int) -> None:
    scan = make_volume(shape=(9, 8, 130))
    box = (slice(2, 7), slice(0, 5), slice(60, 127))
    numbers = make_probabilities((2, 5, 5, 67))
    with MapWriter(
        tmp_path / "map.nii", scan, num_channels=2, axis=axis, box=box, outside=[1, 0.25], stored_as="float32"
    ) as writer:
        put_in_parts(writer, numbers, axis, [0, 2, numbers.shape[axis + 1]])
    expected = np.stack([np.full((9, 8, 130), number, np.float32) for number in (1, 0.25)])
    expected[(slice(None), *box)] = numbers
    np.testing.assert_array_equal(read_volume(tmp_path / "map.nii").array, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scans_geometry_keeps_its_bits_and_its_text_stays_behind(tmp_path: Path, kind: str) -> None:
    scan = build_scan(kind, tmp_path)
    with MapWriter(tmp_path / "map.nii", read_volume(scan), num_channels=2, like=scan, description="medunet") as writer:
        writer.put(make_probabilities((2, 5, 6, 7)), slice(0, 7))
    source, written = read_raw_header(scan), read_raw_header(tmp_path / "map.nii")
    for field in GEOMETRY_FIELDS:
        assert source[field].tobytes() == written[field].astype(source[field].dtype).tobytes(), field
    np.testing.assert_array_equal(source["pixdim"][:4], written["pixdim"][:4])
    assert CANARY not in (tmp_path / "map.nii").read_bytes()
    assert written["descrip"].item() == b"medunet"


def test_names_of_the_channels_stand_in_the_header(tmp_path: Path, make_volume: Any) -> None:
    with MapWriter(tmp_path / "map.nii", make_volume(), num_channels=3, names=["background", "Drüse", "b"]) as writer:
        writer.put(make_probabilities(), slice(0, 31))
    extension = nib.load(tmp_path / "map.nii").header.extensions[0]
    assert extension.get_code() == 6
    assert json.loads(extension.get_content().rstrip(b"\0")) == {"medunet": {"channels": ["background", "Drüse", "b"]}}
    assert read_volume(tmp_path / "map.nii").num_channels == 3


def test_threads_hand_over_planes(tmp_path: Path, make_volume: Any) -> None:
    numbers = make_probabilities()
    with MapWriter(tmp_path / "map.nii", make_volume(), num_channels=3, axis=1, stored_as="float32") as writer:
        threads = [
            threading.Thread(target=writer.put, args=(numbers[:, :, j : j + 1], slice(j, j + 1))) for j in range(22)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(read_volume(tmp_path / "map.nii").array, numbers)


def test_memory_does_not_grow_with_the_number_of_channels(tmp_path: Path, make_volume: Any) -> None:
    import tracemalloc

    scan, slab = make_volume(shape=(96, 96, 64), dtype=np.uint8), np.zeros((20, 96, 96, 4), np.uint8)
    tracemalloc.start()
    with MapWriter(tmp_path / "map.nii", scan, num_channels=20) as writer:
        for k in range(0, 64, 4):
            writer.put(slab, slice(k, k + 4))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * 2**20  # 11 MiB all channels, 0.6 MiB one


# ---- no file ---------------------------------------------------------------------------------------------------------


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, make_volume: Any) -> None:
    (tmp_path / "map.nii").write_bytes(b"old")
    with contextlib.suppress(KeyError), MapWriter(tmp_path / "map.nii", make_volume()) as writer:
        writer.put(make_probabilities((1, 17, 22, 31)), slice(0, 31))
        raise KeyError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("map.nii", b"old")]


def test_nothing_is_seen_before_the_end(tmp_path: Path, make_volume: Any) -> None:
    with MapWriter(tmp_path / "map.nii", make_volume()) as writer:
        writer.put(make_probabilities((1, 17, 22, 31)), slice(0, 31))
        assert list(tmp_path.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["map.nii"]


def test_missing_planes_are_named_and_nothing_is_written(tmp_path: Path, make_volume: Any) -> None:
    with (
        pytest.raises(ValueError, match="27 of 31 planes along axis 2 are missing, the first is 4"),
        MapWriter(tmp_path / "map.nii", make_volume()) as writer,
    ):
        writer.put(make_probabilities((1, 17, 22, 4)), slice(0, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 17, 22, 3), (2, 17, 22, 4), (1, 22, 17, 4), (17, 22, 4)])
def test_a_slab_of_another_shape_is_refused(tmp_path: Path, make_volume: Any, shape: tuple[int, ...]) -> None:
    with (
        pytest.raises(ValueError, match=r"planes 0 to 4 of axis 2 need an array of shape \(1, 17, 22, 4\)"),
        MapWriter(tmp_path / "map.nii", make_volume()) as writer,
    ):
        writer.put(np.zeros(shape, np.float32), slice(0, 4))


@pytest.mark.parametrize("stored_as", ["uint8", "float32"])
def test_nan_is_refused(tmp_path: Path, make_volume: Any, stored_as: Any) -> None:
    with (
        pytest.raises(ValueError, match="NaN"),
        MapWriter(tmp_path / "map.nii", make_volume(), stored_as=stored_as) as writer,
    ):
        writer.put(np.full((1, 17, 22, 1), np.nan), slice(0, 1))


def test_a_closed_writer_takes_nothing(tmp_path: Path, make_volume: Any) -> None:
    writer = MapWriter(tmp_path / "map.nii", make_volume())
    writer.put(make_probabilities((1, 17, 22, 31)), slice(0, 31))
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.put(make_probabilities((1, 17, 22, 31)), slice(0, 31))


def test_other_grids_and_endings_are_refused_before_work(tmp_path: Path, make_volume: Any) -> None:
    scan = build_scan("nifti1", tmp_path)
    with pytest.raises(GeometryError, match="different grids"):
        MapWriter(tmp_path / "map.nii", make_volume(), like=scan)
    with pytest.raises(OutputError, match=r"must end in \.nii or \.nii\.gz"):
        MapWriter(tmp_path / "map.nrrd", make_volume())
    with pytest.raises(ValueError, match="2 numbers for outside"):
        MapWriter(tmp_path / "map.nii", make_volume(), outside=[0, 1])


@pytest.mark.parametrize("limit", [10_000, 50_000])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, make_volume: Any, limit: int) -> None:
    """In the middle of the slabs, and at the end."""
    (tmp_path / "map.nii").write_bytes(b"old")
    numbers = make_probabilities((1, 17, 22, 31))  # 11,594 bytes
    writer = MapWriter(tmp_path / "map.nii", make_volume(), stored_as="float32")  # 46,376
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit if limit == 10_000 else 46_500, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*map\.nii: the file is larger than"), writer:
            writer.put(numbers, slice(0, 31))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("map.nii", b"old")]
