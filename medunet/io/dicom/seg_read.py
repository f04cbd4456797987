"""DICOM SEG to `StructureSet`: binary, fractional and labelmap segmentations, on the grid of a scan or on their own.

A segmentation stores frames, each with a place of its own and often without the empty ones. Every frame must lie on a
slice of the scan or on a plane of its grid, in whatever axis order or direction; nothing is resampled. The format is
described in DICOM PS3.3, sections A.51 and C.8.20.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import LabelError
from medunet.io.dicom.files import DicomFile
from medunet.io.dicom.seg_file import SegmentInfo, SegObject, open_seg
from medunet.io.dicom.seg_place import iterate_masks, place_on_own_grid, place_on_stack, read_labelmap
from medunet.io.dicom.stack import DicomStack
from medunet.io.structures import Structure, StructureSet, from_masks
from medunet.palette import get_color
from medunet.volume import build_grid


def read_seg(
    source: Path | DicomFile | bytes | Any,
    stack: DicomStack | None = None,
    *,
    names: Collection[str] | None = None,
) -> StructureSet:
    """Read a segmentation.

    Args:
        source: A file, its bytes, or a pydicom ``Dataset``.
        stack: The scan on whose grid the masks are wanted. Without it the grid is the one that the segmentation's own
            frames make: slices rising along their normal, from the first frame to the last; slices between them that
            the file leaves out are empty.
        names: Read only these segments; all if None.

    Returns:
        One structure per segment, in the order of the file, those without a voxel too. Fractional segmentations are
        cut at half their maximum, which is logged.

    Raises:
        VolumeError: If the file is no segmentation of a patient, or damaged.
        GeometryError: If it lies in another frame of reference or on another grid than the stack, or if its own
            frames make no regular grid.
        LabelError: If a name in ``names`` is not there, or a labelmap holds values that it does not describe.
    """
    seg = open_seg(source)
    segments = _choose(seg, names)
    # Without a colour in the file it is that of the place in the file, whichever segments are read.
    colors = {segment.name: segment.color or get_color(place) for place, segment in enumerate(seg.segments)}
    canvas = place_on_own_grid(seg) if stack is None else place_on_stack(seg, stack)
    if seg.kind == "LABELMAP":
        layers = canvas.finish(read_labelmap(seg, canvas, segments)[np.newaxis])
        structures = tuple(
            Structure(
                name=segment.name,
                values=(segment.number,),
                color=colors[segment.name],
                code=segment.code,
            )
            for segment in segments
        )
        return StructureSet(layers=layers, structures=structures)
    collected = from_masks(
        ((segment.name, mask) for segment, mask in iterate_masks(seg, canvas, segments)),
        build_grid(canvas.shape, np.eye(4)),
        codes={segment.name: segment.code for segment in segments if segment.code is not None},
        colors=colors,
    )
    return StructureSet(layers=canvas.finish(collected.layers.array), structures=collected.structures)


def _choose(seg: SegObject, names: Collection[str] | None) -> tuple[SegmentInfo, ...]:
    if names is None:
        return seg.segments
    there = [segment.name for segment in seg.segments]
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(f"'{name}'" for name in there[:20]) + (", ..." if len(there) > 20 else "")
        msg = f"{seg.file} has no segment '{missing[0]}'; it has {shown or 'none'}. Choose among these."
        raise LabelError(msg)
    return tuple(segment for segment in seg.segments if segment.name in names)
