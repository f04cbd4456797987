"""``medunet networks``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import JsonOption
from medunet.cli.terminal import print_json
from medunet.errors import InputError

if TYPE_CHECKING:
    from medunet.networks import NetworkSummary

_DEFAULT_EDGE = {2: 512, 3: 128}


def networks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Networks to show; default: all.", metavar="NETWORK")
    ] = None,
    dims: Annotated[int, typer.Option("--dims", help="2 or 3: for slices or for volumes.")] = 3,
    patch: Annotated[
        str | None,
        typer.Option("--patch", help="Voxels of the patch, 128 or 128x128x64; default: 512x512 or 128x128x128."),
    ] = None,
    channels: Annotated[int, typer.Option("--channels", help="Input channels.", min=1)] = 1,
    classes: Annotated[int, typer.Option("--classes", help="Output channels.", min=1)] = 2,
    gflop: Annotated[
        float | None, typer.Option("--gflop", help="Scale every network's width to this cost per patch.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the networks that `medunet train --network` knows, with their size, cost and receptive field."""
    from medunet.networks import summarize_networks

    if gflop is not None and gflop <= 0:
        msg = f"--gflop is {gflop}; expected a number above 0."
        raise InputError(msg)
    summaries = summarize_networks(
        _parse_patch(patch, dims), in_channels=channels, out_channels=classes, names=names or (), gflop=gflop
    )
    if as_json:
        print_json(summaries)
        return
    print(_format_table(summaries))
    print("GFLOP: 10^9 multiplications and additions of one pass over the patch. Receptive field: edge in voxels,")
    print("normalisations apart; 'patch' where every voxel sees the whole patch.")


def _parse_patch(text: str | None, dims: int) -> tuple[int, ...]:
    if dims not in _DEFAULT_EDGE:
        msg = f"--dims is {dims}; expected 2 or 3."
        raise InputError(msg)
    parts = (text or str(_DEFAULT_EDGE[dims])).lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or len(parts) not in (1, dims):
        msg = f"--patch is '{text}'; expected one whole number above 0, or {dims} joined by x."
        raise InputError(msg)
    edges = tuple(map(int, parts))
    return edges * dims if len(edges) == 1 else edges


def _format_table(summaries: list[NetworkSummary]) -> str:
    """One line each; the paper comes last, so that a narrow terminal cuts off nothing else."""
    lines = [
        f"{'network':<17}{'year':>5}{'paper for':>11}{'width':>7}{'patch':>13}{'parameters':>15}{'GFLOP':>10}{'sees':>7}  paper"
    ]
    for one in summaries:
        native = " ".join(f"{dims}D" for dims in one.native_dims)
        patch = "x".join(map(str, one.patch_size))
        sees = "patch" if one.receptive_field is None else str(one.receptive_field)
        lines.append(
            f"{one.name:<17}{one.year:>5}{native:>11}{one.width:>7}{patch:>13}{one.parameters:>15,}{one.gflop:>10,.1f}{sees:>7}"
            f"  {one.paper}"
        )
    return "\n".join(lines)
