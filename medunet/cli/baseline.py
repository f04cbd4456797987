"""``medunet baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.reading import (
    AffineChoice,
    AllowGaps,
    MaskFormatName,
    Series,
    VolumeIndex,
    build_options,
    list_inputs,
    print_remarks,
)
from medunet.cli.terminal import print_json
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.volume import Volume

_NAMES = ("otsu", "region-growing", "k-means")
_MAX_LINES = 20


def baseline(
    name: Annotated[str, typer.Argument(help="otsu, region-growing or k-means.")],
    scan: Annotated[list[Path], typer.Argument(help="A scan, or one file per channel.", metavar="SCAN")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Mask file, in any format of infer.")],
    smooth_mm: Annotated[float, typer.Option("--smooth", help="Standard deviation of a Gaussian before, in mm.")] = 0.0,
    channel: Annotated[
        int | None, typer.Option("--channel", help="Channel to look at, from 0; default: the mean. Not for k-means.")
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="otsu: the darker part is the structure.")] = False,
    split_mm: Annotated[
        float | None,
        typer.Option("--split-objects", help="otsu: divide objects with centres farther apart than this, mm."),
    ] = None,
    seed: Annotated[
        list[str] | None, typer.Option("--seed", help="region-growing: x,y,z in RAS+ mm; may be repeated.")
    ] = None,
    voxel: Annotated[
        list[str] | None, typer.Option("--voxel", help="region-growing: a seed as voxel i,j,k; may be repeated.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="region-growing: how far a voxel may differ from its seed.")
    ] = None,
    classes: Annotated[int, typer.Option("--classes", help="k-means: how many.")] = 3,
    mask_format: MaskFormatName = None,
    series: Series = None,
    volume_index: VolumeIndex = None,
    allow_gaps: AllowGaps = False,
    affine: AffineChoice = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment a scan without learning: what a network must beat."""
    from medunet.io import (
        Algorithm,
        check_output,
        choose_mask_format,
        from_label_map,
        list_outputs,
        read_scan,
        write_structures,
    )
    from medunet.tasks import suggest

    if name not in _NAMES:
        msg = f"There is no baseline '{name}'; {suggest(name, _NAMES)}"
        raise InputError(msg)
    options = build_options(series=series, volume_index=volume_index, allow_gaps=allow_gaps, affine=affine)
    chosen = choose_mask_format(output, mask_format)
    for path in list_outputs(output, chosen, [], split=False):
        check_output(path, list_inputs(scan, path), overwrite=overwrite)
    found = read_scan(list(scan), options)
    if not as_json:
        print_remarks(found)
    image = found.volume
    if name == "otsu":
        from medunet.baselines import segment_otsu

        labels = segment_otsu(image, channel=channel, smooth_mm=smooth_mm, is_dark=dark, split_mm=split_mm)
    elif name == "region-growing":
        labels = _grow(image, seed or [], voxel or [], tolerance, channel, smooth_mm)
    else:
        from medunet.baselines import cluster_kmeans

        labels = cluster_kmeans(image, classes, smooth_mm=smooth_mm)
    part = "object" if split_mm is not None else "class" if name == "k-means" else ""
    names = {f"{part} {n}" if part else "foreground": (n,) for n in range(1, int(labels.array.max()) + 1)}
    structures = from_label_map(labels, names or {"foreground": (1,)})
    algorithm = Algorithm(name=f"medunet baseline {name}")
    write_structures(structures, output, mask_format=chosen, scan=found, options=options, algorithm=algorithm)
    shown = structures.structures if as_json else structures.structures[:_MAX_LINES]
    volumes_ml = {
        structure.name: int(structures.get_mask(structure).sum()) * image.voxel_volume_mm3 / 1000 for structure in shown
    }
    if as_json:
        print_json({"baseline": name, "mask": output, "volumes_ml": volumes_ml})
        return
    for structure_name, volume_ml in volumes_ml.items():
        print(f"{structure_name}: {volume_ml:.3g} ml")
    if len(names) > _MAX_LINES:
        print(f"... {len(names)} in all")
    print(f"{scan[0]} -> {output}")


def _grow(
    image: Volume,
    places: list[str],
    voxels: list[str],
    tolerance: float | None,
    channel: int | None,
    smooth_mm: float,
) -> Volume:
    from medunet.baselines import find_voxel, grow_regions

    if tolerance is None:
        msg = "region-growing needs --tolerance: how far a voxel may differ from its seed, in the unit of the scan."
        raise InputError(msg)
    seeds = [find_voxel(image, _parse_place(place, "--seed", is_mm=True)) for place in places]
    for place in voxels:
        i, j, k = (int(number) for number in _parse_place(place, "--voxel", is_mm=False))
        seeds.append((i, j, k))
    return grow_regions(image, seeds, tolerance=tolerance, channel=channel, smooth_mm=smooth_mm)


def _parse_place(text: str, option: str, *, is_mm: bool) -> list[float]:
    """Three numbers; of two, for a picture, the third is 0."""
    try:
        numbers = [float(part) if is_mm else int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2:
        numbers.append(0)
    if len(numbers) != 3:
        example = "12.5,-40,7" if is_mm else "30,41,12"
        msg = f"{option} is '{text}'; expected three numbers such as {example}."
        raise InputError(msg)
    return numbers
