"""``medunet view``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.reading import (
    AffineChoice,
    AllowGaps,
    Series,
    VolumeIndex,
    build_options,
    list_inputs,
    print_remarks,
)
from medunet.cli.scoring import LabelMap, LabelTask
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.io import Scan
    from medunet.palette import Color
    from medunet.reporting.view import Labels, View
    from medunet.reporting.viewer_server import PageServer
    from medunet.tasks import Task
    from medunet.volume import Volume


def view(
    scan: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MetaImage, PNG, TIFF, or DICOM file, folder or zip.")],
    mask: Annotated[Path | None, typer.Argument(help="Label map, DICOM SEG or RTSTRUCT; it is filled.")] = None,
    reference: Annotated[Path | None, typer.Argument(help="A second one; it is outlined.")] = None,
    task: LabelTask = None,
    mapping: LabelMap = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write instead; it holds the scan.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the local server; 0: a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    modality: Annotated[
        str | None, typer.Option("--modality", help="CT or MR, for the windows; default: the task's, or by the values.")
    ] = None,
    crop: Annotated[
        float | None, typer.Option("--crop", min=0, help="Show only the labels and so many mm around them.")
    ] = None,
    max_voxels: Annotated[
        int, typer.Option("--max-voxels", min=1, help="In millions; of larger scans every second voxel is shown.")
    ] = 32,
    series: Series = None,
    volume_index: VolumeIndex = None,
    allow_gaps: AllowGaps = False,
    affine: AffineChoice = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the HTML file.")] = False,
) -> None:
    """Look at a scan and its masks in the browser, on this computer alone; or write the page as a file."""
    from medunet.io import check_output, read_scan
    from medunet.reporting.view import build_view, recolor_labels, rename_masks
    from medunet.reporting.viewer_page import build_viewer_html, write_viewer_page
    from medunet.reporting.viewer_server import serve_page
    from medunet.reporting.window import choose_modality
    from medunet.tasks import load_task
    from medunet.volume import align_to_grid

    recipe = None if task is None else load_task(task)
    paths = [path for path in (mask, reference) if path is not None]
    if output is not None:
        _check_page_name(output)
        check_output(output, list_inputs([scan, *paths], output, with_labels=True), overwrite=overwrite)
    options = build_options(series=series, volume_index=volume_index, allow_gaps=allow_gaps, affine=affine)
    source = read_scan(scan, options)
    print_remarks(source)
    masks, labels, colors = _read_masks(paths, source, recipe, mapping or [])
    # `build_view` would say "the prediction" of what the user knows by its name.
    masks = [
        align_to_grid(of_path, source.volume, str(path), str(scan)) for of_path, path in zip(masks, paths, strict=True)
    ]
    prediction, outlined = (*masks, None, None)[:2]
    shown = build_view(
        source.volume,
        prediction,
        outlined,
        labels,
        title=scan.name,
        modality=modality or choose_modality(source.volume.array[0], recipe),
        max_voxels=max_voxels * 1_000_000,
        crop_margin_mm=crop,
    )
    shown = rename_masks(shown, {of_view.role: path.name for of_view, path in zip(shown.masks, paths, strict=True)})
    shown = recolor_labels(shown, colors)
    _print_notes(shown)
    if output is not None:
        write_viewer_page(shown, output)
        print(f"Page: {output} ({output.stat().st_size / 2**20:.1f} MiB). It holds the scan itself.")
    else:
        serve_page(build_viewer_html(shown), port=port, on_ready=_print_address if no_browser else _open_browser)


def _check_page_name(output: Path) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        msg = f"The page {output} would not open in a browser: its name must end in .html or .htm."
        raise InputError(msg)


def _read_masks(
    paths: list[Path], scan: Scan, task: Task | None, mapping: list[str]
) -> tuple[list[Volume], Labels, dict[str, Color]]:
    """Label maps on grids of their own, what their values are called, and the colours that the files give them.

    With a task the colours are those of its labels, as in every picture of it.
    """
    from medunet.io import has_structure_names, is_dicom_source, read_label_map, read_structures
    from medunet.reporting.joined_structures import choose_colors, join_structures
    from medunet.tasks import parse_mapping, structures_to_labels

    of_dicom = [is_dicom_source(path) for path in paths]
    # Only what names its structures without a grid of its own needs the scan; where grids differ, `build_view` says so.
    scans = [scan if is_dicom and scan.stack is not None else None for is_dicom in of_dicom]
    if task is None:
        if mapping:
            msg = "--map gives names to the labels of a task; name the task with --task."
            raise InputError(msg)
        sets = [read_structures(path, of_path) for path, of_path in zip(paths, scans, strict=True)]
        return *join_structures(sets), choose_colors(sets)
    names = parse_mapping(mapping)
    volumes = []
    for path, is_dicom, of_path in zip(paths, of_dicom, scans, strict=True):
        if is_dicom or has_structure_names(path):
            volumes.append(structures_to_labels(read_structures(path, of_path), task, mapping=names, name=str(path)))
        else:
            volumes.append(read_label_map(path))
    ignored = {} if task.ignore is None else {"ignored": (task.ignore,)}
    return volumes, {**task.labels, **ignored}, {}


def _print_notes(view: View) -> None:
    for note in view.notes:
        print(note)


def _print_address(server: PageServer) -> None:
    print(f"{server.url}  (Ctrl-C ends)", flush=True)


def _open_browser(server: PageServer) -> None:
    import threading
    import webbrowser

    _print_address(server)
    # A browser of the terminal would keep the thread until it is closed, and must find the server running.
    threading.Thread(target=webbrowser.open, args=(server.take_link(),), daemon=True).start()
