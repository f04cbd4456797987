"""One tool in one process: a first scan, then the same scan again and again, split by stage.

Run by ``bench_inference.py`` as ``python -m peers.warm_inference``; the last line of the output is JSON. Between the scans one
pass of the bare network over one patch is timed, on the same device and threads: passes x its time is the floor, below which no
tool with this network can be. A pass is eager PyTorch in float32, on a GPU in float16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # each tool loads what it needs; the memory of its process is measured
    from torch import Tensor, nn

TOOLS = ("medunet", "nnunet", "monai")
_PASSES = 2


class InferenceTool(Protocol):
    """A tool with its model in memory.

    Attributes:
        network: Bare, on its device; sees ``(B, C, *patch_size)``.
        patch_size: In the order of the network's axes.
        device: That computes.
        about: What else is to be known.
    """

    network: nn.Module
    patch_size: tuple[int, ...]
    device: str
    about: dict[str, str]

    def segment(self, scan: Path, mask: Path) -> tuple[dict[str, float], int]:
        """Segment a scan into a new file; gives seconds per stage and the patches that passed through the network."""
        ...


class StageClock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        """What was done since the last stop was this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def count_patches(network: nn.Module) -> Callable[[], int]:
    """A function that tells how many patches passed through a network since it was last asked."""
    found = [0]

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[0] += len(inputs[0])

    network.register_forward_hook(note)

    def take() -> int:
        number, found[0] = found[0], 0
        return number

    return take


def main() -> None:
    """Segment a scan several times and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the masks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="scans after the first")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="no scan is begun after so many, but for the first two"
    )
    parser.add_argument("--equal", action="store_true", help="medunet: what all tools do, see inference_medunet.py")
    parser.add_argument("--no-floor", action="store_true", help="do not time the network by itself")
    arguments = parser.parse_args()
    began = time.perf_counter()
    tool = _open(arguments)
    loading = time.perf_counter() - began
    scans, passes, num_patches = [], [], 0
    for number in range(1 + arguments.rounds):
        if number > 1 and time.perf_counter() - began > arguments.seconds:
            break
        if number and not arguments.no_floor:
            passes += [_time_pass(tool) for _ in range(_PASSES)]
        start = time.perf_counter()
        stages, num_patches = tool.segment(arguments.scan, arguments.output / f"mask_{number}.nii.gz")
        scans.append({"seconds": time.perf_counter() - start, "stages": stages})
    result = {
        "loading": loading,
        "scans": scans,
        "patches": num_patches,
        "pass_seconds": statistics.median(passes) if passes else None,
        "about": tool.about,
    }
    print(json.dumps(result))


def _open(arguments: argparse.Namespace) -> InferenceTool:
    if arguments.tool == "medunet":
        from peers.inference_medunet import open_medunet

        return open_medunet(arguments.model, arguments.device, is_equal=arguments.equal)
    if arguments.tool == "nnunet":
        from peers.inference_nnunet import open_nnunet_predictor

        return open_nnunet_predictor(arguments.model, arguments.device)
    from peers.inference_monai import open_monai

    return open_monai(arguments.model, arguments.device)


def _time_pass(tool: InferenceTool) -> float:
    import torch

    patch = torch.zeros((1, 1, *tool.patch_size), device=tool.device).normal_()
    is_cuda = tool.device.startswith("cuda")
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.float16, enabled=is_cuda):
        if is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        tool.network(patch)
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
