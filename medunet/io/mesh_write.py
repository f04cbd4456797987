"""Surfaces of structures as binary STL and as VTK's XML PolyData (.vtp), in RAS+ mm.

3D Slicer takes meshes for LPS unless they say ``SPACE=RAS``, in the header of an STL or as field data of a .vtp
(https://github.com/Slicer/Slicer, vtkMRMLModelStorageNode); both are written. STL knows neither names nor labels, so each structure
has a file of its own; a .vtp holds all of them.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medunet.errors import OutputError
from medunet.io.atomic import open_atomic
from medunet.io.structures import Structure, StructureSet
from medunet.io.surface import Surface, build_surface
from medunet.io.writing import to_file_name
from medunet.volume import Array

logger = logging.getLogger(__name__)

MESH_SUFFIXES = (".stl", ".vtp")
_SPACE = "RAS"
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])  # 50 bytes
_VTK_BLOCK_BYTES = 2**15
_VTK_TYPES = {"f4": "Float32", "i4": "Int32"}


def list_mesh_outputs(path: Path, names: list[str]) -> list[Path]:
    """Every file that `write_mesh` will write, so that none is replaced unasked.

    Args:
        path: As `write_mesh`.
        names: Of the structures.

    Raises:
        OutputError: If the name has another ending, or two structures would be written to the same file.

    Example:
        >>> [file.name for file in list_mesh_outputs(Path("mesh.stl"), ["bladder", "left femur"])]
        ['mesh_bladder.stl', 'mesh_left_femur.stl']
    """
    if not path.name.lower().endswith(MESH_SUFFIXES):
        msg = f"Cannot write {path}: expected a name for a mesh ending in {' or '.join(MESH_SUFFIXES)}."
        raise OutputError(msg)
    if path.name.lower().endswith(".vtp") or len(names) == 1:
        return [path]
    outputs = [path.with_name(f"{path.stem}_{to_file_name(name)}{path.suffix}") for name in names]
    if len(set(outputs)) < len(outputs):
        msg = f"Two structures of {path} would be written to the same file; rename one, or write a .vtp."
        raise OutputError(msg)
    return outputs


def write_mesh(structures: StructureSet, path: Path, *, num_smoothings: int = 0) -> list[Path]:
    """Write the surfaces of structures, each file whole or not at all.

    Args:
        structures: With names and values. One without a voxel gets a file without triangles, so that none of an earlier
            run is left in its place.
        path: ``.stl``, a file per structure (``mesh_<name>.stl``) unless there is only one; or ``.vtp``, one file.
        num_smoothings: As `build_surface`; 0 keeps the steps of the voxels.

    Returns:
        The files written.

    Raises:
        OutputError: As `list_mesh_outputs`, or if a file cannot be written.
    """
    outputs = list_mesh_outputs(path, [structure.name for structure in structures.structures])
    surfaces = _iterate_surfaces(structures, num_smoothings)
    if path.name.lower().endswith(".vtp"):
        _write_vtp(list(surfaces), list(structures.structures), path)
    else:
        for surface, output in zip(surfaces, outputs, strict=True):
            _write_stl(surface, output)
    return outputs


def _iterate_surfaces(structures: StructureSet, num_smoothings: int) -> Iterator[Surface]:
    for structure in structures.structures:
        surface = build_surface(structures.get_mask(structure), structures.layers.affine, num_smoothings=num_smoothings)
        if not len(surface.triangles):
            logger.warning("The structure '%s' has no voxel; its mesh is empty.", structure.name)
        yield surface


def _write_stl(surface: Surface, path: Path) -> None:
    corners = surface.points.astype(np.float32)[surface.triangles]  # (M, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = np.zeros(len(corners), _STL_TRIANGLE)
    triangles["corners"] = corners
    triangles["normal"] = normals / np.where(lengths > 0, lengths, 1)
    with open_atomic(path) as file:
        # Must not begin with "solid", which announces text.
        file.write(f"medunet surface, mm, SPACE={_SPACE}".encode().ljust(80, b" "))
        file.write(len(triangles).to_bytes(4, "little"))
        file.write(triangles.data)


def _write_vtp(surfaces: list[Surface], structures: list[Structure], path: Path) -> None:
    counts = [len(surface.triangles) for surface in surfaces]
    starts = np.cumsum([0, *(len(surface.points) for surface in surfaces)])
    points = np.concatenate([np.zeros((0, 3)), *(surface.points for surface in surfaces)]).astype(np.float32)
    triangles = np.concatenate(
        [np.zeros((0, 3), np.int32), *(part.triangles + start for part, start in zip(surfaces, starts, strict=False))]
    ).astype(np.int32)
    labels = np.repeat([min(structure.values) for structure in structures], counts).astype(np.int32)
    numbers = np.repeat(np.arange(len(structures)), counts).astype(np.int32)
    names = [structure.name for structure in structures]
    lines = [
        '<?xml version="1.0"?>',
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64" '
        'compressor="vtkZLibDataCompressor">',
        "<PolyData>",
        f"<FieldData>{_format_strings('SPACE', [_SPACE])}{_format_strings('structure_names', names)}</FieldData>",
        f'<Piece NumberOfPoints="{len(points)}" NumberOfVerts="0" NumberOfLines="0" NumberOfStrips="0" '
        f'NumberOfPolys="{len(triangles)}">',
        f'<CellData Scalars="label">{_format_array("label", labels)}{_format_array("structure", numbers)}</CellData>',
        f"<Points>{_format_array('Points', points)}</Points>",
        f"<Polys>{_format_array('connectivity', triangles.ravel())}",
        f"{_format_array('offsets', np.arange(3, 3 * len(triangles) + 1, 3, dtype=np.int32))}</Polys>",
        "</Piece></PolyData></VTKFile>",
        "",
    ]
    with open_atomic(path) as file:
        for line in lines:
            file.write(line.encode() + b"\n")


def _format_array(name: str, array: Array) -> str:
    """A DataArray in base64: the sizes of the packed blocks, then the blocks
    (https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html)."""
    components = array.shape[1] if array.ndim == 2 else 1
    content = memoryview(array.tobytes())
    blocks = [content[start : start + _VTK_BLOCK_BYTES] for start in range(0, len(content), _VTK_BLOCK_BYTES)]
    packed = [zlib.compress(block, 1) for block in blocks]
    sizes = np.array(
        [len(blocks), _VTK_BLOCK_BYTES, len(content) % _VTK_BLOCK_BYTES, *map(len, packed)], dtype="<u8"
    ).tobytes()
    text = base64.b64encode(sizes).decode() + base64.b64encode(b"".join(packed)).decode()
    return (
        f'<DataArray type="{_VTK_TYPES[array.dtype.str[1:]]}" Name="{name}" NumberOfComponents="{components}" '
        f'format="binary">{text}</DataArray>'
    )


def _format_strings(name: str, texts: list[str]) -> str:
    """A DataArray of texts: their UTF-8 bytes as numbers, each ended by a 0."""
    codes = " ".join(str(byte) for text in texts for byte in (*text.encode(), 0))
    return f'<DataArray type="String" Name="{name}" NumberOfTuples="{len(texts)}" format="ascii">{codes}</DataArray>'
