"""Training iterations per second: medunet's whole iteration beside bare PyTorch without data, and beside nnU-Net's.

The same network, patch, batch and made-up cases for all, on one device, and nnU-Net's SGD for all but one:

    plain PyTorch    network, deep-supervised Dice + cross-entropy, clipping and optimiser on one batch that never changes
    medunet, step    `Engine.step` on one batch that never changes
    medunet          batches by `PatchSampler`, drawn ahead as in training, and `Engine.step`
    medunet, Muon    the same with the optimiser that a budget plans (Muon, a running mean of the weights)
    nnU-Net          its loader, transforms and `nnUNetTrainer.train_step`; its processes beside it, or none

First everything is equal: float32 on the CPU and float16 on a GPU, as nnU-Net trains there, nothing compiled, nnU-Net's
augmentation. Then each has its defaults: medunet's precision, compiled (plain PyTorch likewise), with its augmentation;
nnU-Net compiles on GPUs only.

Left out: preprocessing, validation, logs and checkpoints of both. nnU-Net spends a sixth of its forward passes on
validation patches, medunet up to a twentieth of its time on validation cases. Where nnunetv2 is absent (GPU machines
without it), only the first four are measured.

    .venv-peers/bin/python benchmarks/bench_training_step.py [--device cuda] [--settings small hippocampus large]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peers.environment import has_nnunet, nnunet_environment
from peers.made_up import MADE_UP_TASK, MadeUpCase, make_cases, make_fingerprint, store_cases
from peers.plain import build_plain_step

from medunet.augmentation import AugmentationPolicy, apply_intensity, build_nnunet_policy
from medunet.device import Precision, choose_precision
from medunet.networks import build_network
from medunet.planning import Effort, MemoryTarget, Plan, build_plan
from medunet.planning.network import MUON, NNUNET_SGD
from medunet.planning.plan import OptimizerPlan
from medunet.training.compilation import find_compiler
from medunet.training.engine import Engine
from medunet.training.sampling import PatchSampler
from medunet.volume import Shape3

Step = Callable[[], float]
"""One iteration; gives the seconds that it waited for data."""
Way = Callable[[], contextlib.AbstractContextManager[Step]]
SETTINGS: dict[str, tuple[Shape3, MemoryTarget | Effort]] = {
    "small": ((40, 48, 40), Effort(voxels=2 * 32**3, features=16, batch_size=2)),
    "hippocampus": ((36, 50, 35), MemoryTarget()),
    "large": ((128, 128, 128), Effort(voxels=2 * 64**3, features=32, batch_size=2)),
    "full": ((192, 192, 192), MemoryTarget()),  # nnU-Net's 128^3; for GPUs
}
"""Shape of the cases, and what the plan may cost."""
NUM_CASES = 8
PLAIN, ENGINE, MEDUNET, WITH_MUON, WORKERS, NO_WORKERS = (
    "plain PyTorch, one batch",
    "medunet, step",
    "medunet",
    "medunet, Muon",
    "nnU-Net",
    "nnU-Net, no processes",
)


def main(words: Sequence[str] | None = None) -> None:
    """Print iterations per second and ratios for each setting, everything equal and with each one's defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["small", "hippocampus", "large"])
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way gets")
    parser.add_argument("--iterations", type=int, help="per turn; 10 on the CPU, 100 on a GPU")
    parser.add_argument("--warm-up", type=int, help="iterations before each turn; 3 on the CPU, 30 on a GPU")
    parser.add_argument("--skip-defaults", action="store_true", help="measure only where everything is equal")
    arguments = parser.parse_args(words)
    device = torch.device(arguments.device)
    is_cpu = device.type == "cpu"
    torch.backends.cudnn.benchmark = not is_cpu  # as both tools set it
    iterations, warm_up = arguments.iterations or (10 if is_cpu else 100), arguments.warm_up or (3 if is_cpu else 30)
    where = f"{torch.get_num_threads()} threads" if is_cpu else torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {where}; nnU-Net is {'here' if has_nnunet() else 'not here'}")
    for name in arguments.settings:
        plan, cases = build_setting(name)
        size = " x ".join(map(str, plan.patch_size))
        print(f"{name}: patches of {size}, {plan.batch_size} per batch, {plan.network.features[0]} features")
        for is_default in (False,) if arguments.skip_defaults else (False, True):
            precision = choose_precision(device, "auto" if is_default else "fp32" if is_cpu else "fp16")
            policy = None if is_default else build_nnunet_policy(plan.patch_size, plan.spacing)
            compiles = is_default and find_compiler(device) is not None
            print(f" {'defaults' if is_default else 'everything equal'}: {precision}{', compiled' * compiles}")
            with open_ways(plan, cases, device, precision, policy, compiles=compiles) as ways:
                report(ways, device, rounds=arguments.rounds, iterations=iterations, warm_up=warm_up)


def build_setting(name: str) -> tuple[Plan, list[MadeUpCase]]:
    """Plan, whose optimiser is to be replaced, and cases."""
    shape, target = SETTINGS[name]
    return build_plan(make_fingerprint(shape, num_cases=200), MADE_UP_TASK, target), make_cases(NUM_CASES, shape)


@contextlib.contextmanager
def open_ways(
    plan: Plan,
    cases: list[MadeUpCase],
    device: torch.device,
    precision: Precision,
    policy: AugmentationPolicy | None,
    *,
    compiles: bool,
) -> Iterator[dict[str, Way]]:
    """The ways to train, each to be opened for a turn."""
    with tempfile.TemporaryDirectory() as folder, nnunet_environment(Path(folder), compiles=compiles):
        engine, with_muon = (
            build_engine(plan, optimizer, device, precision, compiles=compiles) for optimizer in (NNUNET_SGD, MUON)
        )
        stored = store_cases(cases, Path(folder))
        sampler = PatchSampler(
            stored, MADE_UP_TASK, plan.patch_size, plan.batch_size, plan.spacing, seed=0, policy=policy, device=device
        )
        batch = sampler.draw(0)
        batch = dataclasses.replace(batch, image=apply_intensity(batch.image, batch.changes), changes=())
        network = build_network(plan.network)
        plain = build_plain_step(network, plan, batch, device, precision, compiles=compiles)
        ways: dict[str, Way] = {
            PLAIN: lambda: _open_fixed(plain),
            ENGINE: lambda: _open_fixed(lambda: engine.step(batch, NNUNET_SGD.learning_rate)),
            MEDUNET: lambda: _open_medunet(engine, sampler),
            WITH_MUON: lambda: _open_medunet(with_muon, sampler),
        }
        if has_nnunet():
            ways |= _build_nnunet_ways(cases, plan, device)
        yield ways


def build_engine(
    plan: Plan, optimizer: OptimizerPlan, device: torch.device, precision: Precision, *, compiles: bool
) -> Engine:
    """A plan's network with an optimiser, ready to learn."""
    plan = plan.model_copy(update={"optimizer": optimizer})
    engine = Engine(plan, MADE_UP_TASK, device=device, precision=precision, will_compile=compiles)
    if compiles:
        engine.compile()
    engine.network.train()
    return engine


def report(ways: dict[str, Way], device: torch.device, *, rounds: int, iterations: int, warm_up: int) -> None:
    """Measure in turns, so that a drifting machine does not favour one, and print medians."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    waits: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            rate, wait = measure(ways[name], device, iterations=iterations, warm_up=warm_up)
            rates[name].append(rate)
            waits[name].append(wait)
    for name, found in rates.items():
        waiting = f"   waits for data {100 * statistics.median(waits[name]):4.1f} %" if max(waits[name]) > 0 else ""
        spread = f"({min(found):.3f} to {max(found):.3f})"
        print(f"   {name:26} {statistics.median(found):8.3f} iterations/s {spread}{waiting}")
    median = {name: statistics.median(found) for name, found in rates.items()}
    print(f"   medunet / plain PyTorch without data: {median[MEDUNET] / median[PLAIN]:.2f} (goal >= 1)")
    print(f"   medunet, with Muon / with SGD: {median[WITH_MUON] / median[MEDUNET]:.2f}")
    if WORKERS in median:
        goal = 1.3 if device.type == "cpu" else 1.5
        best = max((WORKERS, NO_WORKERS), key=median.__getitem__)
        print(f"   medunet / nnU-Net, the faster one ('{best}'): {median[MEDUNET] / median[best]:.2f} (goal >= {goal})")
    print(end="", flush=True)


def measure(way: Way, device: torch.device, *, iterations: int, warm_up: int) -> tuple[float, float]:
    """Iterations per second of one turn, and the share of its time that was spent waiting for data."""
    with way() as step:
        for _ in range(warm_up):
            step()
        _synchronize(device)
        began = time.perf_counter()
        waited = sum(step() for _ in range(iterations))
        _synchronize(device)
        seconds = time.perf_counter() - began
    return iterations / seconds, waited / seconds


@contextlib.contextmanager
def _open_fixed(train: Callable[[], object]) -> Iterator[Step]:
    def step() -> float:
        train()
        return 0.0

    yield step


@contextlib.contextmanager
def _open_medunet(engine: Engine, sampler: PatchSampler) -> Iterator[Step]:
    with contextlib.closing(sampler.iterate(0)) as batches:
        learning_rate = engine.plan.optimizer.learning_rate
        yield lambda: _time_next(batches, lambda batch: engine.step(batch, learning_rate))


def _build_nnunet_ways(cases: list[MadeUpCase], plan: Plan, device: torch.device) -> dict[str, Way]:
    from peers.nnunet_data import store_made_up_cases
    from peers.nnunet_trainer import build_trainer, open_batches

    trainer = build_trainer(store_made_up_cases(cases, MADE_UP_TASK, plan), device)

    @contextlib.contextmanager
    def open_nnunet(workers: int | None) -> Iterator[Step]:
        with open_batches(trainer, workers=workers) as batches:
            yield lambda: _time_next(batches, trainer.train_step)

    return {WORKERS: lambda: open_nnunet(None), NO_WORKERS: lambda: open_nnunet(0)}


def _time_next(batches: Iterator[Any], train: Callable[[Any], object]) -> float:
    began = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - began
    train(batch)
    return waited


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
