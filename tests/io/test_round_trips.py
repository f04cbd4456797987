"""`StructureSet` to a file and back through the doors that everyone uses: no voxel changes, whatever the format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from synthetic_series import LPS_TO_RAS, ORIENTATIONS, Series, build_series, to_homogeneous

from medunet.errors import LabelError
from medunet.io import (
    Code,
    MaskFormat,
    Scan,
    Structure,
    StructureSet,
    from_label_map,
    from_masks,
    read_reference,
    read_scan,
    read_structures,
    write_structures,
)
from medunet.volume import Volume, is_same_grid, to_orientation, turn_to_grid

GRIDS = {
    "axial": (0.8, 1.3, 2.5),
    "axial-feet-first": (0.35, 0.35, 6.0),
    "axial-prone": (3.0, 0.9, 0.5),
    "sagittal-mirrored": (1.1, 0.7, 4.0),
    "coronal": (2.0, 1.0, 1.5),
    "coronal-head-down": (0.6, 1.7, 3.3),
    "oblique": (1.2, 0.45, 2.1),
    "double-oblique": (0.9, 1.4, 2.7),
}
"""Orientation of the slices and their spacing: rows, columns, slices."""
SHAPE = (7, 6, 5)
"""Columns, rows, slices: I, J, K."""
NAMES = ("prostate", "Blase ä 体积", "GTV/1 [red]", "a=b;c|d~e^f%", "x" * 64, "..")
CODES = (None, Code(value="41216001", meaning="Prostate"), Code(value="X-1", meaning="Mass, odd", scheme="99TEST"))
COLORS = ((0, 158, 115), (255, 0, 1), (7, 77, 177))
FORMATS: dict[MaskFormat, str] = {"nifti": "m.nii.gz", "nrrd": "m.seg.nrrd", "dicom-seg": "m.dcm", "rtstruct": "m.dcm"}
CODES_48 = [
    "".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)
]  # every order of the axes, every direction of each


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scan]:
    """The slices of one series per grid."""
    found = {}
    for name, spacing in GRIDS.items():
        series = build_series(shape=(SHAPE[1], SHAPE[0], SHAPE[2]), spacing=spacing, directions=ORIENTATIONS[name])
        found[name] = read_reference(series.write(tmp_path_factory.mktemp("series")))
        assert found[name].volume.spatial_shape == SHAPE
    return found


# ---- what masks may be -------------------------------------------------------------------------------------------------


@st.composite
def draw_mask(draw: Callable[..., Any]) -> np.ndarray:
    """A box with or without a hole, a shell, dust, one voxel, a checkerboard, everything or nothing."""
    kind = draw(st.sampled_from(["box", "shell", "dust", "voxel", "diagonal", "full", "empty"]))
    mask = np.zeros(SHAPE, dtype=bool)
    if kind in ("box", "shell"):
        low = [draw(st.integers(0, n - 1)) for n in SHAPE]
        high = [draw(st.integers(start + 1, n)) for start, n in zip(low, SHAPE, strict=True)]
        mask[tuple(map(slice, low, high))] = True
        if kind == "shell":
            mask[tuple(slice(start + 1, stop - 1) for start, stop in zip(low, high, strict=True))] = False
    elif kind == "dust":
        mask[:] = np.random.default_rng(draw(st.integers(0, 99))).random(SHAPE) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    elif kind == "voxel":
        mask[tuple(draw(st.sampled_from([0, n // 2, n - 1])) for n in SHAPE)] = True
    elif kind == "diagonal":  # neighbours that touch by their corners only
        mask[:] = np.indices(SHAPE).sum(axis=0) % 2 == 0
    elif kind == "full":
        mask[:] = True
    return mask


@st.composite
def draw_structures(draw: Callable[..., Any]) -> Callable[[Volume], StructureSet]:
    """Masks that may overlap, or the regions of one label map; for a grid that is given later."""
    codes = {name: code for name in NAMES if (code := draw(st.sampled_from(CODES))) is not None}
    colors = dict(zip(NAMES, COLORS, strict=False))
    if draw(st.booleans()):
        masks = [(name, draw(draw_mask())) for name in NAMES[: draw(st.integers(1, 4))]]
        return lambda grid: from_masks(masks, grid, codes=codes, colors=colors)
    labels = np.random.default_rng(draw(st.integers(0, 99))).choice(
        [0, 1, 2, 3, 300], SHAPE, p=[0.6, 0.1, 0.1, 0.1, 0.1]
    )
    # Two regions share values, one value has no name of its own, one name has no voxel.
    regions = {NAMES[0]: (1, 2, 3), NAMES[1]: (2, 3), NAMES[2]: (300,), NAMES[5]: (9,)}
    return lambda grid: from_label_map(
        grid.with_array(labels[None].astype(np.int32)), regions, codes=codes, colors=colors
    )


def assert_same(found: StructureSet, meant: StructureSet, *, has_exact_colors: bool = True) -> None:
    """Names, codes, colours, grid, and every voxel of every structure."""
    assert is_same_grid(found.layers, meant.layers)
    assert [part.name for part in found.structures] == [part.name for part in meant.structures]
    for one, other in zip(found.structures, meant.structures, strict=True):
        wrong = np.count_nonzero(found.get_mask(one) != meant.get_mask(other))
        assert wrong == 0, f"{wrong} voxels of {one.name}"
        assert one.code == other.code
        if has_exact_colors:
            assert one.color == other.color


def turn(structures: StructureSet, orientation: str) -> StructureSet:
    """The same voxels along other axes, as another tool stores them."""
    return StructureSet(layers=to_orientation(structures.layers, orientation), structures=structures.structures)


# ---- any structures, any grid, each format -----------------------------------------------------------------------------

ANY_GRID = st.sampled_from(list(GRIDS))
ANY_AXES = st.sampled_from(CODES_48)


@settings(max_examples=40, deadline=None)
@given(name=ANY_GRID, axes=ANY_AXES, build=draw_structures())
def test_row_45_nrrd(scans: dict[str, Scan], name: str, axes: str, build: Callable[..., StructureSet]) -> None:
    meant = turn(build(scans[name].volume), axes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FORMATS["nrrd"])
        assert write_structures(meant, path) == [path]
        assert_same(read_structures(path), meant)


@settings(max_examples=40, deadline=None)
@given(name=ANY_GRID, axes=ANY_AXES, build=draw_structures())
def test_row_45_nifti(scans: dict[str, Scan], name: str, axes: str, build: Callable[..., StructureSet]) -> None:
    meant = turn(build(scans[name].volume), axes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FORMATS["nifti"])
        if meant.layers.num_channels == 1:
            write_structures(meant, path)
            found = read_structures(path)
            unnamed = {part.name for part in found.structures} - {part.name for part in meant.structures}
            assert not unnamed
            assert_same(found, meant)
            np.testing.assert_array_equal(found.layers.array, meant.layers.array)
            return
        with pytest.raises(LabelError, match=r"--split"):
            write_structures(meant, path)
        assert not list(Path(folder).iterdir())
        for part, written in zip(meant.structures, write_structures(meant, path, split=True), strict=False):
            single = read_structures(written)
            assert single.structures == (Structure(name=part.name, values=(1,), color=part.color, code=part.code),)
            np.testing.assert_array_equal(single.get_mask(single.structures[0]), meant.get_mask(part))
            assert is_same_grid(single.layers, meant.layers)


@settings(max_examples=12, deadline=None)
@given(name=ANY_GRID, axes=ANY_AXES, build=draw_structures())
def test_row_45_dicom_seg(scans: dict[str, Scan], name: str, axes: str, build: Callable[..., StructureSet]) -> None:
    scan = scans[name]
    meant = build(scan.volume)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FORMATS["dicom-seg"])
        write_structures(turn(meant, axes), path, mask_format="dicom-seg", scan=scan)
        assert_same(read_structures(path, scan), meant, has_exact_colors=False)
        # Without the scan the segmentation has a grid of its own, along other axes perhaps.
        alone = read_structures(path)
        layers = turn_to_grid(alone.layers, scan.volume)
        assert_same(StructureSet(layers=layers, structures=alone.structures), meant, has_exact_colors=False)


@settings(max_examples=12, deadline=None)
@given(name=ANY_GRID, axes=ANY_AXES, build=draw_structures())
def test_row_45_rtstruct(scans: dict[str, Scan], name: str, axes: str, build: Callable[..., StructureSet]) -> None:
    scan = scans[name]
    meant = build(scan.volume)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, FORMATS["rtstruct"])
        write_structures(turn(meant, axes), path, mask_format="rtstruct", scan=scan)
        assert_same(read_structures(path, scan), meant)


@pytest.mark.parametrize("mask_format", FORMATS)
def test_regions_of_one_layer_survive_each(scans: dict[str, Scan], mask_format: MaskFormat, tmp_path: Path) -> None:
    scan = scans["double-oblique"]
    labels = np.zeros((1, *SHAPE), dtype=np.uint8)
    labels[0, 1:6, 1:5, 1:4] = 1
    labels[0, 2:5, 2:4, 1:4] = 2
    labels[0, 3, 2, 2] = 3
    regions = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,), "necrosis": (4,)}
    meant = from_label_map(scan.volume.with_array(labels), regions)
    write_structures(meant, tmp_path / FORMATS[mask_format], mask_format=mask_format, scan=scan)
    found = read_structures(tmp_path / FORMATS[mask_format], scan)
    counts = {part.name: int(found.get_mask(part).sum()) for part in found.structures}
    assert counts == {"whole": 60, "core": 18, "enhancing": 1, "necrosis": 0}
    assert_same(found, meant, has_exact_colors=mask_format != "dicom-seg")


def test_a_chain_through_all_formats_ends_where_it_began(scans: dict[str, Scan], tmp_path: Path) -> None:
    scan = scans["oblique"]
    rng = np.random.default_rng(4)
    masks = [(name, rng.random(SHAPE) < 0.4) for name in NAMES[:3]]
    meant = found = from_masks(masks, scan.volume)
    for step, mask_format in enumerate(("rtstruct", "nrrd", "dicom-seg", "nrrd", "rtstruct")):
        path = tmp_path / f"{step}{FORMATS[mask_format][1:]}"  # type: ignore[index]
        write_structures(found, path, mask_format=mask_format, scan=scan)  # type: ignore[arg-type]
        found = read_structures(path, scan)
    assert_same(found, meant, has_exact_colors=False)


# ---- all 48 orientations -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> tuple[Series, Scan]:
    """A series, and what medunet reads of it."""
    series = build_series(shape=(5, 6, 4), directions=ORIENTATIONS["oblique"])
    return series, read_scan(series.write(tmp_path_factory.mktemp("series")))


def find_points_of_nifti(path: Path) -> np.ndarray:
    image: Any = nib.load(path)
    return nib.affines.apply_affine(image.affine, np.argwhere(np.asanyarray(image.dataobj)))


def find_points_of_nrrd(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    voxels = np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1].tolist()
    return np.array([image.TransformIndexToPhysicalPoint(voxel) for voxel in voxels]) * (-1, -1, 1)


def find_points_of_seg(path: Path) -> np.ndarray:
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return to_homogeneous(np.argwhere(volume.array)) @ (LPS_TO_RAS @ volume.affine).T[:, :3]


FIND_POINTS = {
    "nifti": find_points_of_nifti,
    "nrrd": find_points_of_nrrd,
    "dicom-seg": find_points_of_seg,
}


@pytest.mark.parametrize("orientation", CODES_48)
def test_a_mask_lies_where_its_voxels_lie(oblique: tuple[Series, Scan], tmp_path: Path, orientation: str) -> None:
    assert len(set(CODES_48)) == 48
    series, reference = oblique
    # Another tool turned the scan into NIfTI, along axes that it likes; intensities say where they belong.
    turned = to_orientation(reference.volume, orientation)
    nib.save(nib.Nifti1Image(turned.array[0].astype(np.int16), turned.affine), tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    assert scan.volume.orientation == orientation
    labels = scan.volume.with_array((scan.volume.array > 305).astype(np.uint8))
    structures = from_label_map(labels, {"bright": (1,)})

    truth = np.concatenate([one.ras_points[one.values > 305] for one in series.slices])
    assert 10 < len(truth) < labels.array.size
    for mask_format, name in FORMATS.items():
        path = tmp_path / name
        lender = scan if mask_format in ("nifti", "nrrd") else reference
        write_structures(structures, path, mask_format=mask_format, scan=lender)
        if mask_format == "rtstruct":
            found = read_structures(path, reference)
            voxels = np.argwhere(found.get_mask(found.structures[0]))
            points = nib.affines.apply_affine(found.layers.affine, voxels)
        else:
            points = FIND_POINTS[mask_format](path)
        assert len(points) == len(truth), mask_format
        distances, nearest = cKDTree(truth).query(points)
        assert distances.max() < 0.01, mask_format
        assert len(set(nearest.tolist())) == len(truth), mask_format
