"""``medunet convert``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.reading import (
    AffineChoice,
    AllowGaps,
    MaskFormatName,
    Reference,
    SegType,
    Series,
    Split,
    Untrusted,
    VolumeIndex,
    build_options,
    list_inputs,
    parse_seg_type,
    print_remarks,
)
from medunet.cli.terminal import print_json
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.io import Algorithm, MaskFormat, ReadOptions, Scan, StructureSet
    from medunet.tasks import Task


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Image, label map, DICOM folder, SEG or RTSTRUCT.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to: .nii.gz, .nii, .nrrd, .seg.nrrd, .dcm, .tif.")
    ],
    mask_format: MaskFormatName = None,
    reference: Reference = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Task whose labels name the values of a mask, or are found by name.")
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help='Name in a SEG or RTSTRUCT for a label: "CTV_p=prostate".')
    ] = None,
    series: Series = None,
    volume_index: VolumeIndex = None,
    allow_gaps: AllowGaps = False,
    affine: AffineChoice = None,
    split: Split = False,
    seg_type: SegType = "binary",
    untrusted: Untrusted = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read an image or a mask in one format and write it in another; every voxel keeps its place."""
    from medunet.io import list_outputs, write_structures

    seg_kind = parse_seg_type(seg_type)
    options = build_options(series=series, volume_index=volume_index, allow_gaps=allow_gaps, affine=affine)
    if mapping and task is None:
        msg = "--map gives names to the labels of a task; name the task with --task."
        raise InputError(msg)
    if not _is_mask(source, output, mask_format, is_named=task is not None or split):
        _check_image_name(output, mask_format)
        _check_outputs([output], source, None, overwrite=overwrite)
        _convert_image(source, output, options, untrusted=untrusted, as_json=as_json)
        return
    if untrusted:
        msg = f"--untrusted reads images apart, and {source} is read as a mask; leave it out."
        raise InputError(msg)
    chosen = _choose_format(output, mask_format)
    outputs = list_outputs(output, chosen, [], split=False) if not split else []
    _check_outputs(outputs, source, reference, overwrite=overwrite)
    scan = _read_reference(reference, options)
    # What chooses a volume of the reference must not choose one of the mask, which has only one.
    mask_options = options if scan is None else replace(options, volume_index=None)
    structures = _read_mask(source, scan, mask_options, task, mapping or [])
    names = [structure.name for structure in structures.structures]
    _check_outputs(list_outputs(output, chosen, names, split=split), source, reference, overwrite=overwrite)
    written = write_structures(
        structures, output, mask_format=chosen, scan=scan, options=options, split=split,
        seg_kind=seg_kind, algorithm=_name_algorithm(),
    )  # fmt: skip
    volumes = {
        structure.name: int(structures.get_mask(structure).sum()) * structures.layers.voxel_volume_mm3 / 1000
        for structure in structures.structures
    }
    if as_json:
        found = [{"name": name, "volume_ml": volume} for name, volume in volumes.items()]
        print_json({"source": source, "written": written, "structures": found})
        return
    for name, volume_ml in volumes.items():
        print(f"{name}: {volume_ml:.1f} ml")
    print(f"{source} -> {', '.join(map(str, written[:3]))}{', ...' if len(written) > 3 else ''}")


def _convert_image(source: Path, output: Path, options: ReadOptions, *, untrusted: bool, as_json: bool) -> None:
    from medunet.io import read_scan, read_scan_apart, write_image
    from medunet.volume import describe_grid

    scan = (read_scan_apart if untrusted else read_scan)(source, options)
    if not as_json:
        print_remarks(scan)
    volume = scan.volume
    write_image(volume, output)
    if as_json:
        print_json(
            {
                "source": source,
                "written": [output],
                "shape": volume.shape,
                "spacing_mm": volume.spacing,
                "orientation": volume.orientation,
                "remarks": list(scan.stack.remarks) if scan.stack is not None else [],
            }
        )
        return
    print(f"{source} -> {output}  {describe_grid(volume)}")


def _is_mask(source: Path, output: Path, mask_format: str | None, *, is_named: bool) -> bool:
    """Whether structures are converted; otherwise an image."""
    from medunet.io.formats import PLANAR_SUFFIXES, has_suffix, is_dicom_source
    from medunet.io.reading import has_structure_names

    if is_named or mask_format in ("dicom-seg", "rtstruct") or has_suffix(output, (".seg.nrrd", ".dcm")):
        return True
    # Pictures are written of masks only; of a scan the name is refused as that of an image.
    if has_suffix(output, PLANAR_SUFFIXES) and not is_dicom_source(source):
        return True
    return has_structure_names(source)


def _choose_format(output: Path, mask_format: str | None) -> MaskFormat:
    from medunet.io import choose_mask_format

    return choose_mask_format(output, mask_format)


def _check_image_name(output: Path, mask_format: str | None) -> None:
    """Refuse a name that no image is written under, or that contradicts ``--format``, before anything is read."""
    from medunet.io.writing import check_image_name

    if mask_format is not None:
        _choose_format(output, mask_format)
    check_image_name(output)


def _check_outputs(outputs: list[Path], source: Path, reference: str | None, *, overwrite: bool) -> None:
    from medunet.io import check_output

    for path in outputs:
        inputs = list_inputs([source], path, with_labels=True)
        inputs += [] if reference is None else list_inputs([Path(reference)], path)
        check_output(path, inputs, overwrite=overwrite)


def _read_reference(reference: str | None, options: ReadOptions) -> Scan | None:
    from medunet.io import read_reference

    return None if reference is None else read_reference(reference, options)


def _read_mask(
    source: Path, scan: Scan | None, options: ReadOptions, task_name: str | None, mapping: list[str]
) -> StructureSet:
    """Structures of a file; with a task, under its label names and with its codes.

    Names that a file carries count before its values: the same value may mean another structure in another task.
    """
    from medunet.io import from_label_map, is_dicom_source, read_structures
    from medunet.io.reading import has_structure_names
    from medunet.palette import get_label_colors
    from medunet.tasks import check_label_values, list_object_values, load_task, parse_mapping, structures_to_labels

    if task_name is None:
        return read_structures(source, scan, options)
    task: Task = load_task(task_name)
    names = parse_mapping(mapping)
    found = read_structures(source, scan, options)
    if is_dicom_source(source) or (has_structure_names(source) and not task.has_instances):
        labels = structures_to_labels(found, task, mapping=names, name=str(source))
    elif names:
        msg = (
            f"{source} holds values without names, so there is nothing to --map; expected those of task '{task.name}'."
        )
        raise InputError(msg)
    else:
        labels = found.to_label_map()
        check_label_values(labels, task, str(source))
        if task.has_instances:
            values = list_object_values(labels, task)  # without the labels of which there is no object
            return from_label_map(labels, values, codes=task.codes, colors=get_label_colors(task.labels))
    return from_label_map(labels, task.semantic_labels, codes=task.codes)


def _name_algorithm() -> Algorithm:
    import medunet
    from medunet.io import Algorithm

    return Algorithm(name="medunet convert", version=medunet.__version__, is_automatic=False)
