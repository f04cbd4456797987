"""Patches per second and core: medunet's sampler beside nnU-Net's loader, and beside a pipeline of MONAI and TorchIO.

All make batches of the same size from the same cases, on one thread in one process, from what each tool's own
preprocessing stored: medunet from memory or from its files, nnU-Net from its blosc2 files. nnU-Net's ``nnUNetDataLoader``
and training transforms are used as they are; only the smaller label maps for deep supervision are not asked for, because
medunet makes these where the network is. What is augmented:

    nnU-Net's list       rotation, scaling, noise, blur, brightness, contrast, low resolution, gamma, mirroring along all axes
    medunet's policy     that list with elastic deformation, for MR also the scanner's artifacts, mirroring of left and right
    MONAI + TorchIO      changes of the same kinds, as often and as strong, in a pipeline that has nothing of medunet:
                         ``CacheDataset``, ``RandCropByPosNegLabeld``, MONAI's and TorchIO's random transforms
    medunet, by peers    medunet's sampler and draws, applied by transforms of these libraries (``--augmentation torchio``)

Left out: reading from a cold disk, several workers, and copies to a GPU, on which medunet can do all of this. Where nnunetv2 is
absent, the others are measured alone.

    .venv-peers/bin/python benchmarks/bench_training_data.py --data hippocampus-mr [--seconds 60]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from peers.environment import has_nnunet, nnunet_environment
from peers.made_up import MADE_UP_TASK, make_cases, write_dataset
from peers.monai_data import build_monai_draw
from peers.plans import change_plan

from medunet.augmentation import AugmentationPolicy, apply_intensity, build_nnunet_policy, build_policy
from medunet.planning import MemoryTarget, Plan, build_plan, compute_fingerprint
from medunet.preprocessing import StoredCase, prepare_cases
from medunet.tasks import Case, Task, load_task, read_dataset
from medunet.training.sampling import AugmentationMode, PatchSampler

Draw = Callable[[], object]
NNUNET, EQUAL, ON_DISK, OWN, MONAI, PEERS = (
    "nnU-Net",
    "medunet, nnU-Net's list",
    "the same from files",
    "medunet, its policy",
    "MONAI + TorchIO",
    "medunet, by peers",
)
GOAL = 4.0


def main(words: Sequence[str] | None = None) -> None:
    """Print patches per second of each way, and the ratios, for each set of cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset folder; without it only made-up cases are used")
    parser.add_argument("--task", default="hippocampus-mr", help="task of --data")
    parser.add_argument("--cases", type=int, default=20, help="of --data that are used")
    parser.add_argument("--edge", type=int, default=160, help="edge of the four made-up cases in voxels")
    parser.add_argument("--patch", type=int, default=96, help="edge of their patches")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each way")
    arguments = parser.parse_args(words)
    print(f"torch {torch.__version__}; nnU-Net is {'here' if has_nnunet() else 'not here'}")
    torch.set_num_threads(1)
    if arguments.data is not None:
        cases, task = read_dataset(arguments.data).cases[: arguments.cases], load_task(arguments.task)
        report(arguments.data.name, cases, task, arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_dataset(make_cases(4, (arguments.edge,) * 3), data)
        name = f"made up, {arguments.edge}^3"
        report(name, read_dataset(data).cases, MADE_UP_TASK, arguments.seconds, patch=arguments.patch)


def report(name: str, cases: Sequence[Case], task: Task, seconds: float, *, patch: int | None = None) -> None:
    """Measure all ways on one set of cases, with the plan of nnU-Net's recipe or patches of an own size, two per batch."""
    plan = build_plan(compute_fingerprint(cases, task), task, MemoryTarget())
    if patch is not None:
        plan = change_plan(plan, patch_size=(patch, patch, patch), batch_size=2)
    with tempfile.TemporaryDirectory() as folder, open_ways(cases, task, plan, Path(folder)) as ways:
        rates = measure(ways, plan.batch_size, seconds)
    size = " x ".join(map(str, plan.patch_size))
    print(f"{name}: {len(cases)} cases, patches of {size}, {plan.batch_size} per batch, one thread")
    for way, rate in rates.items():
        print(f"  {way:24} {rate:8.2f} patches/s")
    own = rates[OWN]
    if NNUNET in rates:
        print(f"  medunet / nnU-Net, nnU-Net's list: {rates[EQUAL] / rates[NNUNET]:.2f} (goal >= {GOAL:g})")
        print(f"  medunet's policy / nnU-Net's list by nnU-Net: {own / rates[NNUNET]:.2f}")
    print(f"  medunet's policy, medunet / MONAI + TorchIO: {own / rates[MONAI]:.2f}")
    print(f"  medunet's policy, fast / by peers: {own / rates[PEERS]:.2f}", flush=True)


@contextlib.contextmanager
def open_ways(cases: Sequence[Case], task: Task, plan: Plan, folder: Path) -> Iterator[dict[str, Draw]]:
    """Functions that make one batch each."""
    in_memory = prepare_cases(cases, task, plan, folder / "store", num_workers=os.cpu_count() or 1)
    on_disk = prepare_cases(cases, task, plan, folder / "store", memory_gib=0)

    def sample(stored: list[StoredCase], mode: AugmentationMode, policy: AugmentationPolicy | None) -> Draw:
        size = plan.patch_size
        sampler = PatchSampler(
            stored, task, size, plan.batch_size, plan.spacing, seed=0, mode=mode, policy=policy, num_workers=0
        )
        numbers = itertools.count()

        def draw() -> None:
            batch = sampler.draw(next(numbers))
            if batch.changes:  # in training the device that trains does this
                apply_intensity(batch.image, batch.changes)

        return draw

    ways: dict[str, Draw] = {
        EQUAL: sample(in_memory, "fast", build_nnunet_policy(plan.patch_size, plan.spacing)),
        ON_DISK: sample(on_disk, "fast", build_nnunet_policy(plan.patch_size, plan.spacing)),
        OWN: sample(in_memory, "fast", None),
        MONAI: build_monai_draw(in_memory, build_policy(task.modality), plan.patch_size, plan.batch_size, plan.spacing),
        PEERS: sample(in_memory, "torchio", None),
    }
    if not has_nnunet():
        yield ways
        return
    with open_nnunet(cases, task, plan, folder) as draw:
        yield {NNUNET: draw, **ways}


@contextlib.contextmanager
def open_nnunet(cases: Sequence[Case], task: Task, plan: Plan, folder: Path) -> Iterator[Draw]:
    """nnU-Net's loader and transforms, in this process."""
    from peers.nnunet_data import prepare_nnunet_dataset
    from peers.nnunet_trainer import build_trainer, open_batches

    with nnunet_environment(folder):
        dataset = prepare_nnunet_dataset(cases, cases, task, plan=plan)
        trainer = build_trainer(dataset, torch.device("cpu"))
        trainer.enable_deep_supervision = False
        torch.set_num_threads(1)
        with open_batches(trainer, workers=0) as batches:
            yield lambda: next(batches)


def measure(ways: dict[str, Draw], batch_size: int, seconds: float) -> dict[str, float]:
    """Patches per second of each, measured in turns of a second, so that a drifting machine does not favour one."""
    spent, drawn = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for draw in ways.values():
        draw()  # imports and caches
    while min(spent.values()) < seconds:
        for name, draw in ways.items():
            began = time.perf_counter()
            while (now := time.perf_counter()) < began + min(1, seconds):
                draw()
                drawn[name] += batch_size
            spent[name] += now - began
    return {name: drawn[name] / spent[name] for name in ways}


if __name__ == "__main__":
    main()
