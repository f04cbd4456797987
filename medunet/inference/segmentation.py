"""What comes out of inference: a label map on the scan's own grid, and what is known about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medunet.inference.memory_need import MemoryNeed
from medunet.io import (
    Algorithm,
    Code,
    MaskFormat,
    ReadOptions,
    Scan,
    SegKind,
    StructureSet,
    check_not_beside_slices,
    check_output,
    choose_mask_format,
    from_label_map,
    is_metatensor,
    is_nibabel,
    is_simpleitk,
    is_torchio,
    list_outputs,
    read_reference,
    to_lps_image,
    to_metatensor,
    to_nibabel,
    to_torchio,
    write_structures,
)
from medunet.palette import get_label_colors
from medunet.postprocessing import AgreementCounts, Flag, LabelVolume, Objects, compute_label_volumes
from medunet.volume import Volume

logger = logging.getLogger(__name__)

_MAX_STRUCTURES = 1000
"""Named one by one; programs that show structures stop being usable long before."""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The mask of one scan.

    Attributes:
        labels: ``(1, I, J, K)`` on the scan's grid, with the values of the task; of a task with instances, which label
            each voxel belongs to, whatever the object.
        label_values: Label or region name -> values in ``labels``.
        codes: Label name -> coded term (SNOMED CT), for DICOM.
        timings: Seconds per stage: ``read``, ``prepare``, ``network``, ``restore``, ``postprocess``, ``flags``; where the box
            of the structures was looked for also ``locate``; of a cascade also ``low``, its first network; with maps also
            ``maps``, what finishing them takes; of a task with instances also ``objects``.
        device: That computed.
        scan: Where the image came from, without its voxels; None when it came from memory.
        options: How it was read.
        model: Name and version of what made the mask, for DICOM and the ``descrip`` of a NIfTI file.
        flags: What is unlike training; none where the model does not say how scans and masks looked there.
        agreement: How far networks or mirrored passes agree; None where there is one pass, where plans differ, or where nobody
            asked for it and validation has not learnt what it says about the Dice.
        memory: What the scan was expected to take.
        peak_device_bytes: The most that was taken of a CUDA device meanwhile, by other scans at the same time, too; None where
            none computed.
        probabilities: ``(classes, I, J, K)`` float16, background first, or one channel per region; None unless asked for.
        uncertainty: ``(1, I, J, K)`` float16, entropy of the probabilities, 0 to 1; None unless asked for.
        objects: The objects one by one, and their volumes; None where the task has no instances.
        warnings: What was warned of from loading the model to the mask, one sentence each: a model of phantoms, a backend or
            eight bits that could not be taken, a box in which the structures were not found, less memory than is needed, less at
            a time for want of it, steps of post-processing that were skipped. What reading said is in ``scan.notes``.
    """

    labels: Volume
    label_values: dict[str, tuple[int, ...]]
    codes: Mapping[str, Code] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    scan: Scan | None = None
    options: ReadOptions | None = None
    model: tuple[str, str] = ("medunet", "")
    flags: tuple[Flag, ...] = ()
    agreement: AgreementCounts | None = None
    memory: MemoryNeed | None = None
    peak_device_bytes: int | None = None
    probabilities: Volume | None = None
    uncertainty: Volume | None = None
    objects: Objects | None = None
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> Path | None:
        """The scan's file or folder; None when it came from memory."""
        return None if self.scan is None else self.scan.path

    @property
    def structures(self) -> StructureSet:
        """The labels with their names, codes and colours."""
        return from_label_map(self.labels, self.label_values, codes=self.codes)

    @property
    def mask(self) -> Volume:
        """``labels``, or of a task with instances their numbers: what a file with a value per voxel holds."""
        return self.labels if self.objects is None else self.objects.numbers

    @property
    def object_structures(self) -> StructureSet:
        """Every object as a structure of its own, ``"nucleus 1"``, ``"nucleus 2"``; labels that are no objects as one each.

        Raises:
            ValueError: If the task has no instances.
        """
        if self.objects is None:
            msg = "The task of this mask has no instances; take structures."
            raise ValueError(msg)
        values: dict[str, tuple[int, ...]] = {name: (value,) for name, value in self.objects.stuff.items()}
        numbers = dict.fromkeys(self.label_values, 0)
        codes = {name: code for name, code in self.codes.items() if name in values}
        for one in self.objects.facts:
            numbers[one.label] += 1
            name = f"{one.label} {numbers[one.label]}"
            values[name] = (one.value,)
            if one.label in self.codes:
                codes[name] = self.codes[one.label]
        return from_label_map(self.objects.numbers, values, codes=codes)

    @property
    def volumes(self) -> dict[str, LabelVolume]:
        """Volume of every label; where the scan cuts a structure, what of it can be seen, and why no more is known."""
        return compute_label_volumes(self.labels, self.label_values)

    @property
    def volumes_ml(self) -> dict[str, float | None]:
        """Volume of every label in millilitres: 0 where nothing was found, None where the scan cuts the structure."""
        return {name: volume.volume_ml for name, volume in self.volumes.items()}

    def save(
        self,
        path: str | Path,
        *,
        mask_format: str | None = None,
        reference: str | Path | None = None,
        split: bool = False,
        seg_kind: SegKind = "binary",
        overwrite: bool = False,
    ) -> Path:
        """Write the mask, whole or not at all.

        Of a task with instances NIfTI, PNG and TIFF get a value per object (`mask`); DICOM objects and ``.seg.nrrd`` a
        structure per object (`object_structures`); with ``split``, every label gets one file for all of its objects.

        Args:
            path: Where to. The end of the name gives the format: ``.nii.gz``, ``.nii``, ``.seg.nrrd``, ``.png``,
                ``.tif``; ``.dcm`` needs ``mask_format``. A scan read from a NIfTI file lends the mask its header's
                geometry, bit for bit.
            mask_format: ``"nifti"``, ``"nrrd"``, ``"dicom-seg"``, ``"rtstruct"`` or ``"planar"``.
            reference: The DICOM series that a scan in another format was made from; DICOM objects refer to its slices.
            split: Whether every label gets a file of its own, ``mask_<name>.nii.gz``, with the value 1.
            seg_kind: ``"binary"``, which every viewer reads, or ``"labelmap"``, which is smaller.
            overwrite: Whether existing files may be replaced.

        Raises:
            OutputError: If the path is the scan itself or a volume among its slices, exists (unless ``overwrite``), or cannot be written.
            InputError: If a DICOM object is asked for and neither scan nor ``reference`` is a DICOM series.
            GeometryError: If the mask does not lie on the grid of ``reference``.
        """
        path = Path(path)
        chosen = choose_mask_format(path, mask_format)
        inputs = [] if self.scan is None else self.scan.list_files()
        for output in list_outputs(path, chosen, list(self.label_values), split=split):
            check_not_beside_slices(output, inputs)
            check_output(output, inputs, overwrite=overwrite)
        scan = self.scan if reference is None else read_reference(reference, self.options)
        write_structures(
            self._choose_structures(chosen, split=split),
            path,
            mask_format=chosen,
            scan=scan,
            options=self.options,
            split=split,
            seg_kind=seg_kind,
            algorithm=Algorithm(name=self.model[0], version=self.model[1]),
            description=" ".join(self.model).strip(),
        )
        return path

    def save_semantic(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write which label each voxel belongs to, whatever the object, as NIfTI; whole or not at all.

        Args:
            path: Where to; ends in ``.nii`` or ``.nii.gz``.
            overwrite: Whether existing files may be replaced.

        Raises:
            OutputError: As `save`.
        """
        return replace(self, objects=None).save(path, mask_format="nifti", overwrite=overwrite)

    def _choose_structures(self, mask_format: MaskFormat, *, split: bool) -> StructureSet:
        if self.objects is None or split:
            return self.structures
        if mask_format in ("nifti", "planar"):
            values = {
                name: tuple(one.value for one in self.objects.facts if one.label == name) for name in self.label_values
            }
            values |= {name: (value,) for name, value in self.objects.stuff.items()}
            # A label without an object is left out, the others keep their colours.
            colors = get_label_colors(self.label_values)
            found = {name: of for name, of in values.items() if of}
            return from_label_map(self.mask, found, codes=self.codes, colors=colors)
        if len(self.objects.facts) <= _MAX_STRUCTURES:
            return self.object_structures
        logger.warning(
            "%d objects are too many structures for the format %s, which gets the labels without telling objects apart. Write "
            "NIfTI.",
            len(self.objects.facts),
            mask_format,
        )
        return self.structures

    def to_nibabel(self) -> Any:
        """The mask as a nibabel image."""
        return to_nibabel(self.mask)

    def to_simpleitk(self) -> Any:
        """The mask as a SimpleITK image."""
        return to_lps_image(self.mask)

    def to_like(self, scan: object) -> Any:
        """The mask as the kind of object that the scan was.

        nibabel, SimpleITK, MONAI ``MetaTensor``, TorchIO ``LabelMap``, ``(array, affine)``, or else a `Volume`.
        """
        if is_nibabel(scan):
            return self.to_nibabel()
        if is_simpleitk(scan):
            return self.to_simpleitk()
        if is_metatensor(scan):
            return to_metatensor(self.mask, scan)
        if is_torchio(scan):
            return to_torchio(self.mask)
        if isinstance(scan, tuple) and len(scan) == 2 and hasattr(scan[0], "ndim"):
            return self.mask.array[0], self.mask.affine
        return self.mask
