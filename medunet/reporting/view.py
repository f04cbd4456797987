"""`View`: a scan and its masks made ready for the viewer of a page, in bytes that a browser takes.

Axes are turned to run along right, anterior and superior, nothing is interpolated, and every voxel keeps its place in the
world, oblique affines too. What is too large is shown by every second (third, ...) voxel along the axes with the smallest
voxels: what is shown are values of the scan, never means of them. The page says so.

Scans are stored as uint8 or int16: exactly where the values are whole numbers that fit, else in 65,535 steps.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from medunet.errors import InputError, LabelError
from medunet.io import encode_nifti
from medunet.palette import Color, get_label_colors
from medunet.reporting.palette import from_bytes, to_hex
from medunet.reporting.planes import measure_areas
from medunet.reporting.window import BONE_WINDOW_HU, CT_WINDOW_HU, LUNG_WINDOW_HU
from medunet.volume import Affine, Array, Shape3, Spacing, Volume, align_to_grid, to_orientation

Labels: TypeAlias = Mapping[str, Sequence[int]]
Role: TypeAlias = Literal["prediction", "reference"]
Window: TypeAlias = tuple[str, float, float]
Box: TypeAlias = tuple[slice, slice, slice]

MAX_VOXELS = 32_000_000
"""Of a scan in a page of its own: a graphics card holds about 20 bytes for each."""

FRAGMENT_BYTES = 2 * 2**20
"""Of one case within a report, as text in the page."""

FRAGMENT_MARGIN_MM = 25.0
"""Around the labels, in a report."""

_FRAGMENT_VOXELS = 4_000_000
_FEWEST_VOXELS = 1000
_MAX_AXIS = 2048  # of a 3D texture (WebGL 2: MAX_3D_TEXTURE_SIZE of common cards)
_MAX_OUTLINED = 255  # labels that NiiVue outlines
_INT16_STEPS = 65_534
_MOST_COUNTED = 65_535  # beyond it sorting a slice is faster than a table of all values
_CT_WINDOWS: tuple[Window, ...] = (
    ("soft tissue", *CT_WINDOW_HU),
    ("lung", *LUNG_WINDOW_HU),
    ("bone", *BONE_WINDOW_HU),
    ("brain", 0.0, 80.0),
    ("liver", -5.0, 145.0),
)
_PERCENTILE_WINDOWS = (("1st to 99th percentile", 1.0, 99.0), ("0.1 to 99.9", 0.1, 99.9), ("10 to 90", 10.0, 90.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class ViewMask:
    """One mask of a view.

    Attributes:
        role: A prediction is filled, a reference outlined.
        name: As the page calls it.
        nifti: Codes 0..n on the grid of the view, as ``.nii.gz``.
        members: For each code from 1 on, the places of its labels in `View.labels`, the smallest region first.
        volumes_ml: Per label, in the whole scan.
    """

    role: Role
    name: str
    nifti: bytes
    members: tuple[tuple[int, ...], ...]
    volumes_ml: tuple[float, ...]

    @property
    def base64(self) -> str:
        """`nifti` as text for the page."""
        return base64.b64encode(self.nifti).decode()


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What one viewer shows; `medunet.reporting.viewer_page` puts it into a page.

    Attributes:
        title: One line above it. It is shown as it is: give no patient name.
        nifti: The scan, as ``.nii.gz``, axes along R, A and S.
        shape: ``(I, J, K)`` of what is shown.
        affine: Voxel to world, ``(4, 4)``, RAS+ mm.
        start: Voxel under the crosshair at first, ``(I, J, K)``.
        windows: Name, lowest and highest value; the first is shown at first.
        labels: Names, in the order of the palette.
        masks: None, one or both.
        notes: What the reader must know: whether voxels were left out or values rounded.
        own_colors: Name -> colour, of labels that bring one; the others have that of the palette.
    """

    title: str
    nifti: bytes
    shape: Shape3
    affine: Affine
    start: Shape3
    windows: tuple[Window, ...]
    labels: tuple[str, ...]
    masks: tuple[ViewMask, ...] = ()
    notes: tuple[str, ...] = ()
    own_colors: Mapping[str, Color] = field(default_factory=dict)

    @property
    def base64(self) -> str:
        """`nifti` as text for the page."""
        return base64.b64encode(self.nifti).decode()

    @property
    def colours(self) -> tuple[str, ...]:
        """One ``#rrggbb`` per label: its own, or that of the palette that all pictures share."""
        colors = {**get_label_colors(self.labels), **self.own_colors}
        return tuple(to_hex(from_bytes(colors[name])) for name in self.labels)

    @property
    def num_bytes(self) -> int:
        """What the volumes take in the page."""
        return sum(math.ceil(len(data) / 3) * 4 for data in (self.nifti, *(mask.nifti for mask in self.masks)))

    def to_facts(self) -> dict[str, Any]:
        """What the script of the page needs to know, ready for JSON."""
        return {
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "start": list(self.start),
            "windows": [{"name": name, "low": low, "high": high} for name, low, high in self.windows],
            "labels": [
                {"name": name, "colour": colour} for name, colour in zip(self.labels, self.colours, strict=True)
            ],
            "masks": [{"role": mask.role, "name": mask.name, "members": mask.members} for mask in self.masks],
        }


def build_view(
    image: Volume,
    prediction: Volume | None = None,
    reference: Volume | None = None,
    labels: Labels | None = None,
    *,
    title: str = "",
    modality: str = "CT",
    max_voxels: int = MAX_VOXELS,
    crop_margin_mm: float | None = None,
) -> View:
    """Make a scan and its masks ready for a page.

    Args:
        image: The scan; its first channel is shown.
        prediction: Label map on the scan's grid, its axes in any order, or None; it is filled.
        reference: Likewise; it is outlined.
        labels: Name -> values as stored, all labels of the task, so that each keeps its colour everywhere. Of regions
            that lie within each other the smallest one colours a voxel. Values without a name are shown as ``value 7``.
        title: One line above the view.
        modality: ``"CT"`` offers windows in HU; anything else percentiles of the scan.
        max_voxels: Above it, voxels are left out.
        crop_margin_mm: Show only the box around the labels, with this margin; the whole scan where there is no label.
            None shows the whole scan.

    Raises:
        GeometryError: If a mask lies on another grid than the scan, with both grids.
        LabelError: If the reference has more than 255 labels and regions, which cannot be outlined.
    """
    if max_voxels < 1:
        msg = f"A view of at most {max_voxels} voxels was asked for; expected 1 or more."
        raise InputError(msg)
    whole = _prepare(image, prediction, reference, labels or {})
    return _show(whole, title, modality, max_voxels, crop_margin_mm)


def build_small_view(
    image: Volume,
    prediction: Volume | None = None,
    reference: Volume | None = None,
    labels: Labels | None = None,
    *,
    title: str = "",
    modality: str = "CT",
    max_bytes: int = FRAGMENT_BYTES,
) -> View:
    """`build_view` for one of many cases of a report: the box around the labels, in at most so many bytes of the page.

    Voxels are left out until it fits. A view of some hundred voxels may remain above a budget of a few KiB.
    """
    whole = _prepare(image, prediction, reference, labels or {})
    max_voxels = _FRAGMENT_VOXELS
    while True:
        view = _show(whole, title, modality, max_voxels, FRAGMENT_MARGIN_MM)
        num_voxels = math.prod(view.shape)
        if view.num_bytes <= max_bytes or num_voxels <= _FEWEST_VOXELS:
            return view
        # Packed size falls almost as the number of voxels does; a step at least, so that it ends.
        max_voxels = int(num_voxels * min(0.9, max_bytes / view.num_bytes))


def rename_masks(view: View, names: Mapping[Role, str]) -> View:
    """The same view with other names for its masks, such as those of their files."""
    masks = tuple(replace(mask, name=names.get(mask.role, mask.name)) for mask in view.masks)
    return replace(view, masks=masks)


def recolor_labels(view: View, colors: Mapping[str, Color]) -> View:
    """The same view with other colours for its labels, such as those of the file that a mask was read from."""
    return replace(view, own_colors=dict(colors))


def choose_steps(shape: Shape3, spacing: Spacing, max_voxels: int) -> Shape3:
    """Of which voxels one is shown along each axis, so that at most ``max_voxels`` are.

    The axis with the smallest distance between shown voxels is thinned first: thick slices stay.

    Example:
        >>> choose_steps((512, 512, 100), (0.7, 0.7, 3.0), 10_000_000)
        (2, 2, 1)
    """
    steps = [max(1, math.ceil(n / _MAX_AXIS)) for n in shape]
    while math.prod(_count_shown(shape, steps)) > max_voxels:
        axes = [axis for axis in range(3) if steps[axis] < shape[axis]]
        steps[min(axes, key=lambda axis: (spacing[axis] * steps[axis], -shape[axis]))] += 1
    i, j, k = steps
    return i, j, k


@dataclass(frozen=True, eq=False, kw_only=True)
class _Whole:
    """The scan and its masks before anything is left out, in RAS axes.

    Attributes:
        scan: ``(1, I, J, K)``.
        named: All labels.
        codes: Per mask, ``(1, I, J, K)``.
        members: Per mask and code, as `ViewMask.members`.
        volumes_ml: Per mask, as `ViewMask.volumes_ml`.
        notes: As `View.notes`.
    """

    scan: Volume
    named: dict[str, tuple[int, ...]]
    codes: dict[Role, Volume]
    members: dict[Role, tuple[tuple[int, ...], ...]]
    volumes_ml: dict[Role, tuple[float, ...]]
    notes: tuple[str, ...]


def _prepare(image: Volume, prediction: Volume | None, reference: Volume | None, labels: Labels) -> _Whole:
    scan = to_orientation(Volume(image.array[:1], image.affine), "RAS")
    sides = _turn_masks(image, prediction, reference)
    counts = {role: _count_values(side.array[0]) for role, side in sides.items()}
    named = _name_all(labels, counts)
    coded = {role: _encode_labels(side, counts[role], named, role) for role, side in sides.items()}
    return _Whole(
        scan=scan,
        named=named,
        codes={role: codes for role, (codes, _) in coded.items()},
        members={role: members for role, (_, members) in coded.items()},
        volumes_ml={role: _measure_volumes(counts[role], named, scan.voxel_volume_mm3) for role in sides},
        notes=() if image.num_channels == 1 else (f"Channel 1 of {image.num_channels} is shown.",),
    )


def _show(whole: _Whole, title: str, modality: str, max_voxels: int, crop_margin_mm: float | None) -> View:
    scan = whole.scan
    box = _choose_box([codes.array[0] for codes in whole.codes.values()], scan, crop_margin_mm)
    steps = choose_steps(_measure(box), scan.spacing, max_voxels)
    shown, affine = _cut(scan, box, steps)
    stored, slope, intercept, rounding = _store(shown)
    codes = {role: _cut(of_mask, box, steps)[0] for role, of_mask in whole.codes.items()}
    masks = tuple(
        ViewMask(
            role=role,
            name=role,
            nifti=encode_nifti(Volume(of_mask[None], affine)),
            members=whole.members[role],
            volumes_ml=whole.volumes_ml[role],
        )
        for role, of_mask in codes.items()
    )
    return View(
        title=title,
        nifti=encode_nifti(Volume(stored[None], affine), slope=slope, intercept=intercept),
        shape=shown.shape,
        affine=affine,
        start=_choose_start([(codes[role], whole.members[role]) for role in codes], len(whole.named), shown.shape),
        windows=_choose_windows(shown, modality),
        labels=tuple(whole.named),
        masks=masks,
        notes=(*whole.notes, *_describe_cut(box, steps, scan.spatial_shape), *rounding),
    )


# ---- masks -----------------------------------------------------------------------------------------------------------


def _turn_masks(image: Volume, prediction: Volume | None, reference: Volume | None) -> dict[Role, Volume]:
    given: tuple[tuple[Role, Volume | None], ...] = (("prediction", prediction), ("reference", reference))
    turned: dict[Role, Volume] = {}
    for role, mask in given:
        if mask is not None:
            aligned = align_to_grid(mask, image, f"The {role}", "the scan")
            # The affine of the scan: grids that agree within the tolerance are turned in the same way.
            turned[role] = to_orientation(Volume(aligned.array[:1], image.affine), "RAS")
    return turned


def _count_values(label_map: Array) -> dict[int, int]:
    """Voxels of each value but 0, slice by slice: a whole volume would be copied as int64."""
    counts: Counter[int] = Counter()
    for part in np.moveaxis(label_map, 2, 0):
        if part.max() <= _MOST_COUNTED:
            of_value = np.bincount(part.ravel())
            values = np.flatnonzero(of_value)
            numbers = of_value[values]
        else:
            values, numbers = np.unique(part, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    counts.pop(0, None)
    return counts


def _name_all(labels: Labels, counts: Mapping[Role, Mapping[int, int]]) -> dict[str, tuple[int, ...]]:
    """All labels that were named, then the values that were found without a name."""
    named = {name: tuple(int(value) for value in values) for name, values in labels.items()}
    known = {value for values in named.values() for value in values}
    unknown = sorted({value for of_side in counts.values() for value in of_side} - known)
    for value in unknown:
        name = f"value {value}"
        while name in named:
            name += " (unnamed)"
        named[name] = (value,)
    return named


def _encode_labels(
    side: Volume, counts: Mapping[int, int], named: Mapping[str, tuple[int, ...]], role: Role
) -> tuple[Volume, tuple[tuple[int, ...], ...]]:
    """Values become codes: 1 for the first set of labels that a voxel of this mask has, and so on."""
    order = sorted(range(len(named)), key=lambda index: (len(list(named.values())[index]), index))
    values_of = list(named.values())
    codes: dict[tuple[int, ...], int] = {}
    table = np.zeros(max(counts, default=0) + 1, dtype=np.uint16)
    for value in sorted(counts):
        members = tuple(index for index in order if value in values_of[index])
        table[value] = codes.setdefault(members, len(codes) + 1)
    if role == "reference" and len(codes) > _MAX_OUTLINED:
        msg = (
            f"The reference has {len(codes)} labels; expected at most {_MAX_OUTLINED}, as many as the viewer outlines. "
            "Give it as the first mask, which is filled and may have more."
        )
        raise LabelError(msg)
    table = table.astype(np.uint8) if len(codes) <= _MAX_OUTLINED else table
    return side.with_array(table[side.array]), tuple(codes)


def _measure_volumes(
    counts: Mapping[int, int], named: Mapping[str, tuple[int, ...]], voxel_volume_mm3: float
) -> tuple[float, ...]:
    voxels = [sum(counts.get(value, 0) for value in values) for values in named.values()]
    return tuple(number * voxel_volume_mm3 / 1000 for number in voxels)


def _choose_start(masks: Sequence[tuple[Array, tuple[tuple[int, ...], ...]]], num_labels: int, shape: Shape3) -> Shape3:
    """Where most labels are well seen; the middle without any."""
    areas = measure_areas(None, {}, shape)
    for codes, members in masks:
        of_label = {
            str(index): [code for code, of_code in enumerate(members, start=1) if index in of_code]
            for index in range(num_labels)
        }
        measured = measure_areas(codes, of_label, shape)
        areas = areas + measured if areas.areas[0].shape[1] else measured
    i, j, k = (areas.choose_slice(axis) for axis in range(3))
    return i, j, k


# ---- what is shown of the grid ---------------------------------------------------------------------------------------


def _choose_box(codes: Sequence[Array], scan: Volume, margin_mm: float | None) -> Box:
    whole = tuple(slice(0, n) for n in scan.spatial_shape)
    if margin_mm is None or not any(array.any() for array in codes):
        return whole  # type: ignore[return-value]
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(np.logical_or.reduce([array.any(axis=others) for array in codes]))
        margin = math.ceil(margin_mm / scan.spacing[axis])
        box.append(slice(max(0, int(used[0]) - margin), min(scan.spatial_shape[axis], int(used[-1]) + 1 + margin)))
    i, j, k = box
    return i, j, k


def _cut(volume: Volume, box: Box, steps: Shape3) -> tuple[Array, Affine]:
    """Voxels ``(I, J, K)`` and where they lie: each stays at its place in the world."""
    i, j, k = (slice(part.start, part.stop, step) for part, step in zip(box, steps, strict=True))
    to_whole = np.diag([*map(float, steps), 1.0])
    to_whole[:3, 3] = [part.start for part in box]
    return volume.array[0, i, j, k], volume.affine @ to_whole


def _measure(box: Box) -> Shape3:
    i, j, k = (part.stop - part.start for part in box)
    return i, j, k


def _count_shown(shape: Sequence[int], steps: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.ceil(n / step) for n, step in zip(shape, steps, strict=True))


def _describe_cut(box: Box, steps: Shape3, shape: Shape3) -> list[str]:
    notes = []
    size = _measure(box)
    if size != shape:
        notes.append(f"Cropped around the labels: {_format_shape(size)} of {_format_shape(shape)} voxels are shown.")
    if max(steps) > 1:
        axes = ("left to right", "back to front", "bottom to top")
        thinned = [f"every {_format_ordinal(n)} from {axis}" for n, axis in zip(steps, axes, strict=True) if n > 1]
        notes.append(f"Reduced: of {_format_shape(size)} voxels only {', '.join(thinned)} is shown; volumes are exact.")
    return notes


def _format_shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _format_ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


# ---- values ----------------------------------------------------------------------------------------------------------


def _store(array: Array) -> tuple[Array, float, float, list[str]]:
    """Stored voxels, slope, intercept, and a note where values were rounded."""
    if array.dtype == np.bool_:
        return array.view(np.uint8), 1.0, 0.0, []
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    is_whole = array.dtype.kind in "iu" or (finite.size == array.size and bool((array == np.rint(array)).all()))
    for dtype in (np.uint8, np.int16):
        limits = np.iinfo(dtype)
        if is_whole and limits.min <= low and high <= limits.max:
            return array.astype(dtype), 1.0, 0.0, []
    slope = (high - low) / _INT16_STEPS or 1.0
    middle = low + (high - low) / 2
    # Slice by slice in float64: rounding must not depend on the dtype of the scan, and a whole copy would be large.
    stored = np.empty(array.shape, dtype=np.int16)
    for k in range(array.shape[2]):
        values = np.nan_to_num(array[:, :, k].astype(np.float64), nan=low, posinf=high, neginf=low)
        stored[:, :, k] = np.rint((values - middle) / slope)
    return stored, slope, middle, [f"Values are rounded to steps of {slope:.3g}."]


def _choose_windows(array: Array, modality: str) -> tuple[Window, ...]:
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    values = finite if finite.size else np.zeros(1)
    whole = ("all values", *_widen(float(values.min()), float(values.max())))
    if modality.upper() == "CT":
        return (*_CT_WINDOWS, whole)
    levels = np.percentile(values, [level for _, *of_window in _PERCENTILE_WINDOWS for level in of_window]).tolist()
    pairs = zip(levels[::2], levels[1::2], strict=True)
    windows = tuple((name, *_widen(*pair)) for (name, *_), pair in zip(_PERCENTILE_WINDOWS, pairs, strict=True))
    return (*windows, whole)


def _widen(low: float, high: float) -> tuple[float, float]:
    """A window of no width shows nothing."""
    return (low, high) if high > low else (low - 0.5, low + 0.5)
