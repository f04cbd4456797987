"""``medunet export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.terminal import print_json, to_json


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to: a file .onnx, .xml, .ts or .pt, or a folder for a bundle.")
    ],
    export_format: Annotated[str, typer.Option("--format", "-f", help="onnx, openvino, torchscript or monai-bundle.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model for other programs, after comparing it with the original."""
    from medunet.exporting import export as export_model

    result = export_model(model, export_format, output, overwrite=overwrite)
    if as_json:
        print_json({"format": export_format, **to_json(result)})
        return
    parity = result.parity
    print(
        f"{result.path}: largest difference {parity.max_relative_difference:.1e} of the largest logit, "
        f"{parity.different_labels:.1e} of the labels, on {parity.num_patches} random patches"
    )
