"""Mesh files, parsed by hand as their formats say."""

from __future__ import annotations

import base64
import logging
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from medunet.errors import OutputError
from medunet.io.mesh_write import list_mesh_outputs, write_mesh
from medunet.io.structures import from_label_map
from medunet.io.surface import Surface, build_surface, compute_surface_volume_mm3
from medunet.volume import Volume

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([0.7, -1.2, 1.5]), [-31.0, 12.5, 40.25]
)
NAMES = {"left femur": (4,), "bladder": (1,), "Prostata ü": (7,), "nothing": (9,)}


def make_structures(names: Any = NAMES) -> Any:
    labels = np.zeros((1, 20, 18, 16), np.uint8)
    labels[0, 2:9, 3:9, 2:9] = 1
    labels[0, 11:18, 4:16, 5:15] = 4
    labels[0, 13, 6:9, 7] = 7
    return from_label_map(Volume(labels, OBLIQUE), names)


def read_stl(path: Path) -> tuple[bytes, Any]:
    content = path.read_bytes()
    count = int.from_bytes(content[80:84], "little")
    assert len(content) == 84 + 50 * count
    rows = np.frombuffer(content[84:], np.uint8).reshape(count, 50)
    return content[:80], np.ascontiguousarray(rows[:, :48]).view("<f4").reshape(count, 4, 3)


def read_vtp(path: Path) -> tuple[Any, dict[str, Any]]:
    root = ElementTree.parse(path).getroot()
    assert root.attrib == {
        "type": "PolyData", "version": "1.0", "byte_order": "LittleEndian", "header_type": "UInt64",
        "compressor": "vtkZLibDataCompressor",
    }  # fmt: skip
    arrays: dict[str, Any] = {}
    for element in root.iter("DataArray"):
        text = element.text or ""
        if element.get("type") == "String":
            codes = bytes(int(code) for code in text.split())
            arrays[element.get("Name", "")] = codes.decode().split("\0")[:-1]
            continue
        num_blocks = int.from_bytes(base64.b64decode(text[:12])[:8], "little")
        head_characters = -(-8 * (3 + num_blocks) // 3) * 4
        head = np.frombuffer(base64.b64decode(text[:head_characters]), "<u8")
        packed, blocks, start = base64.b64decode(text[head_characters:]), [], 0
        for size in head[3:].tolist():
            blocks.append(zlib.decompress(packed[start : start + size]))
            start += size
        assert start == len(packed)
        assert [len(block) for block in blocks[:-1]] == [int(head[1])] * (num_blocks - 1)
        dtype = {"Float32": "<f4", "Int32": "<i4"}[element.get("type", "")]
        array = np.frombuffer(b"".join(blocks), dtype)
        arrays[element.get("Name", "")] = array.reshape(-1, 3) if element.get("NumberOfComponents") == "3" else array
    piece = next(root.iter("Piece"))
    return piece.attrib, arrays


def test_a_stl_per_structure_with_the_surface_of_its_mask(tmp_path: Path) -> None:
    structures = make_structures()
    outputs = write_mesh(structures, tmp_path / "mesh.stl")
    names = ["mesh_left_femur.stl", "mesh_bladder.stl", "mesh_Prostata_ü.stl", "mesh_nothing.stl"]
    assert [path.name for path in outputs] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for structure, path in zip(structures.structures[:3], outputs, strict=False):
        expected = build_surface(structures.get_mask(structure), OBLIQUE)
        header, triangles = read_stl(path)
        np.testing.assert_allclose(triangles[:, 1:], expected.points[expected.triangles], atol=1e-4)
        edges = triangles[:, 2:].astype(np.float64) - triangles[:, 1:2]
        normals = np.cross(edges[:, 0], edges[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        np.testing.assert_allclose(triangles[:, 0], normals, atol=1e-3)
        assert header.startswith(b"medunet")
        assert b"SPACE=RAS" in header


def test_one_structure_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    assert write_mesh(make_structures({"bladder": (1,)}), tmp_path / "a.STL") == [tmp_path / "a.STL"]
    assert len(read_stl(tmp_path / "a.STL")[1]) > 100


def test_a_vtp_holds_all_structures_by_label_and_name(tmp_path: Path) -> None:
    structures = make_structures()
    assert write_mesh(structures, tmp_path / "mesh.vtp") == [tmp_path / "mesh.vtp"]
    piece, arrays = read_vtp(tmp_path / "mesh.vtp")
    triangles = arrays["connectivity"].reshape(-1, 3)
    assert int(piece["NumberOfPoints"]) == len(arrays["Points"])
    assert int(piece["NumberOfPolys"]) == len(triangles) == len(arrays["label"])
    np.testing.assert_array_equal(arrays["offsets"], 3 * np.arange(1, len(triangles) + 1))
    assert arrays["SPACE"] == ["RAS"]
    assert arrays["structure_names"] == list(NAMES)
    for number, structure in enumerate(structures.structures):
        own = arrays["label"] == structure.values[0]
        np.testing.assert_array_equal(own, arrays["structure"] == number)
        expected = build_surface(structures.get_mask(structure), OBLIQUE)
        np.testing.assert_allclose(arrays["Points"][triangles[own]], expected.points[expected.triangles], atol=1e-4)
        part = Surface(points=arrays["Points"].astype(np.float64), triangles=triangles[own])
        assert compute_surface_volume_mm3(part) == pytest.approx(compute_surface_volume_mm3(expected), rel=1e-4)


def test_regions_that_overlap_are_whole_surfaces(tmp_path: Path) -> None:
    structures = make_structures({"both": (1, 4), "bladder": (1,)})
    write_mesh(structures, tmp_path / "mesh.vtp")
    _, arrays = read_vtp(tmp_path / "mesh.vtp")
    expected = [len(build_surface(structures.get_mask(one), OBLIQUE).triangles) for one in structures.structures]
    assert np.bincount(arrays["structure"]).tolist() == expected


def test_smoothing_is_passed_on(tmp_path: Path) -> None:
    structures = make_structures({"bladder": (1,)})
    write_mesh(structures, tmp_path / "mesh.stl", num_smoothings=3)
    expected = build_surface(structures.get_mask(structures.structures[0]), OBLIQUE, num_smoothings=3)
    np.testing.assert_allclose(
        read_stl(tmp_path / "mesh.stl")[1][:, 1:], expected.points[expected.triangles], atol=1e-4
    )


@pytest.mark.parametrize("ending", [".stl", ".vtp"])
def test_nothing_found_replaces_the_mesh_of_an_earlier_run(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"mesh{ending}"
    path.write_bytes(b"old")
    with caplog.at_level(logging.WARNING):
        write_mesh(make_structures({"nothing": (9,)}), path)
    assert "The structure 'nothing' has no voxel" in caplog.text
    if ending == ".stl":
        assert len(read_stl(path)[1]) == 0
    else:
        piece, arrays = read_vtp(path)
        assert piece["NumberOfPolys"] == "0"
        assert arrays["structure_names"] == ["nothing"]


@pytest.mark.parametrize("ending", [".stl", ".vtp"])
def test_same_mask_gives_same_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        write_mesh(make_structures({"bladder": (1,)}), tmp_path / f"{name}{ending}")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def test_other_endings_and_names_that_meet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ending in \.stl or \.vtp"):
        write_mesh(make_structures(), tmp_path / "mesh.obj")
    with pytest.raises(OutputError, match=r"would be written to the same file; rename one, or write a \.vtp"):
        list_mesh_outputs(tmp_path / "mesh.stl", ["a b", "a/b"])
    assert list(tmp_path.iterdir()) == []
