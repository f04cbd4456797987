"""From a scan to a mask: medunet beside nnU-Net's predictor and MONAI's inferer, the same network and weights in all.

Scans: a made-up CT of 512x512x300, and real ones where ``--real`` names the folder that holds them. Of every tool are measured,
in turns and in processes of their own:

    whole    from the command's start to its end, mask written: `medunet infer`, `nnUNetv2_predict_from_modelfolder` without
             mirroring, a script with MONAI's transforms and inferer; time, and most memory of the process and its children
    warm     scans after the first in one process, split by stage, beside the floor: patches x time of one pass of the bare
             network over one patch, eager, in float32 (float16 on a GPU), timed between the scans of the same process

medunet is measured twice when warm: with its defaults, and kept to what the others do (``medunet, equal``: float32, eager,
nothing skipped). Each tool prepares and restores scans in its own way, so that they may need different numbers of patches; these
are printed, as is how far the masks agree. Memory beyond ``--memory-gb`` stops a tool; the result then says so.

With ``--locate-model``, `bench_locate.py` follows in the same run: a whole-body CT with a pelvis, located first or not.

Not measured: several scans at once, ensembles, mirroring.

    .venv-peers/bin/python benchmarks/bench_inference.py -o inference --real ../shared/data
    .venv-peers/bin/python benchmarks/bench_inference.py -o inference --quick
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import torch
from bench_locate import compare, embed_pelvis
from peers.environment import has_nnunet
from peers.inference_report import Goal, draw, print_tables
from peers.scans import compute_border_share, write_phantom, write_real_scan
from peers.shared_model import build_shared_plan, write_medunet_model, write_nnunet_model
from peers.watched import GIB, Outcome, run_watched

import medunet
from medunet.errors import MedunetError
from medunet.io import read_label_map
from medunet.models import read_single_model
from medunet.volume import Shape3, Spacing

MEDUNET, EQUAL, NNUNET, MONAI = "medunet", "medunet, equal", "nnU-Net", "MONAI"
WORKERS = {MEDUNET: "medunet", EQUAL: "medunet", NNUNET: "nnunet", MONAI: "monai"}
"""Way -> tool of `peers.warm_inference`."""
REAL_SCANS = {
    "torso CT": "torso-ct/example_ct.nii.gz",
    "sarcoma CT": "dicom/sarcoma-ct-mr-pet-rtstruct/CT/image",
}
"""Name -> place within the folder of real scans."""
FULL: dict[str, Any] = {
    "shape": (512, 512, 300),
    "spacing": (0.8, 0.8, 2.0),
    "network_spacing": 3.0,
    "features": 8,
    "patch": None,
    "classes": [3, 8, 25],
    "real_classes": [8],
    "rounds": 3,
    "minutes": 25.0,
}
QUICK: dict[str, Any] = FULL | {
    "shape": (160, 160, 96),
    "spacing": (2.56, 2.56, 6.25),
    "network_spacing": 4.0,
    "features": 4,
    "patch": (64, 64, 64),
    "classes": [25],
    "rounds": 1,
    "minutes": 3.0,
}
WHOLE_BODY_SHAPE: Shape3 = (512, 512, 900)
LOCATING_GAIN = 10.0
TINY_SHAPE: Shape3 = (32, 32, 32)
START_ALLOWANCE_S = 1.5
MANY_CLASSES = 25
_LONG_SHARE = 0.15
Rows = dict[tuple[str, int, str], "Row"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A scan and the models that segment it.

    Attributes:
        scan: Its name.
        path: NIfTI file, alone in its folder.
        num_classes: Background included.
        models: Folder of the models of this number of classes: ``medunet`` and ``nnunet``.
        voxels: Of the scan.
    """

    scan: str
    path: Path
    num_classes: int
    models: Path
    voxels: int


@dataclass(kw_only=True)
class Row:
    """What was measured of one tool on one scan.

    Attributes:
        whole: Seconds of whole processes.
        peak_gib: The largest of them.
        warm: Seconds of scans after the first in a process.
        warm_peak_gib: Most memory of that process.
        stages: Seconds per stage, medians over these scans.
        patches: That passed through the network.
        pass_seconds: Of the bare network over one patch.
        loading: Seconds until the model was in memory.
        about: What the tool says about itself.
        faults: Why something was not measured.
    """

    whole: list[float] = field(default_factory=list)
    peak_gib: float = 0.0
    warm: list[float] = field(default_factory=list)
    warm_peak_gib: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    patches: int = 0
    pass_seconds: float | None = None
    loading: float | None = None
    about: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def floor(self) -> float | None:
        """Seconds that the passes alone take."""
        return self.patches * self.pass_seconds if self.pass_seconds else None


def main() -> None:
    """Make scans and models, measure in turns, print tables and goals, write CSV, JSON and a picture."""
    arguments = parse_arguments()
    if not has_nnunet():
        print("nnunetv2 is not installed (`make peers`): nnU-Net is left out.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(arguments)
    print("\n".join(f"{name}: {text}" for name, text in machine.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        settings = make_settings(arguments, Path(folder))
        start = bench.measure_start()
        bench.measure(settings)
        masks = bench.compare_masks(settings)
        ratio = None if arguments.locate_model is None else time_locating(arguments)
    goals = [*judge(bench.rows, settings, arguments.device), judge_start(start)]
    if ratio is not None:
        goals.append(Goal("whole-body CT: whole scan / located first", ratio, LOCATING_GAIN, ">="))
    print_tables(bench.rows, masks, goals)
    write_results(arguments.output, machine, bench.rows, masks, start, goals)
    draw(bench.rows, arguments.output / "inference.png")
    print(f"{arguments.output}: inference.csv, inference.json, inference.png")


def parse_arguments() -> argparse.Namespace:
    """Options; those that were not given come from the quick or the full run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for table and picture")
    parser.add_argument("--quick", action="store_true", help="a small scan, one round: about 3 minutes")
    parser.add_argument("--real", type=Path, help=f"folder that holds {' and '.join(REAL_SCANS.values())}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--labels", choices=["smooth", "speckled"], default="smooth", help="what the masks look like")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("I", "J", "K"), help="voxels of the made-up CT")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("I", "J", "K"), help="its voxel size, mm")
    parser.add_argument("--network-spacing", type=float, help="voxel size that the network sees, mm")
    parser.add_argument("--features", type=int, help="channels of the network's first stage")
    parser.add_argument("--patch", type=int, nargs=3, metavar=("I", "J", "K"), help="default: that of nnU-Net's plan")
    parser.add_argument("--classes", type=int, nargs="+", help="background included, for the made-up CT")
    parser.add_argument("--real-classes", type=int, nargs="+", help="the same for the real ones")
    parser.add_argument("--rounds", type=int, help="whole processes, and warm scans, of each tool")
    parser.add_argument("--minutes", type=float, help="after so many, nothing is measured a second time")
    parser.add_argument(
        "--memory-gb", type=float, help="a tool that needs more is stopped; default: 90 %% of what is free"
    )
    parser.add_argument(
        "--locate-model", type=Path, help="trained on the pelvis phantom with a locator: times it on a whole body too"
    )
    parser.add_argument("--tools", nargs="+", choices=[MEDUNET, NNUNET, MONAI], default=[MEDUNET, NNUNET, MONAI])
    arguments = parser.parse_args()
    for name, value in (QUICK if arguments.quick else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.memory_gb is None:
        arguments.memory_gb = 0.9 * psutil.virtual_memory().available / GIB
    if not has_nnunet():
        arguments.tools = [tool for tool in arguments.tools if tool != NNUNET]
    return arguments


def describe_machine(arguments: argparse.Namespace) -> dict[str, str]:
    """What a reader must know to judge the figures."""
    cpu = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        cpu = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), cpu
        )
    where = f"{os.cpu_count()} cores of {cpu}, {torch.get_num_threads()} threads"
    if arguments.device != "cpu":
        where = f"{torch.cuda.get_device_name(arguments.device)}; {where}"
    size, spacing = "x".join(map(str, arguments.shape)), "x".join(f"{mm:g}" for mm in arguments.spacing)
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{where}, {psutil.virtual_memory().total / GIB:.0f} GiB; at most {arguments.memory_gb:.1f} GiB per tool",
        "versions": f"medunet {medunet.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "made-up CT": f"{size} voxels of {spacing} mm, {arguments.labels} labels",
        "network": f"{arguments.features} features in the first stage, voxels of {arguments.network_spacing:g} mm",
    }


def make_settings(arguments: argparse.Namespace, folder: Path) -> list[Setting]:
    """Write scans and models; each model once per number of classes, planned for the made-up CT."""
    scans: dict[str, tuple[Path, Iterable[int]]] = {}
    path = _make_scan_path(folder, "phantom")
    write_phantom(path, tuple(arguments.shape), tuple(arguments.spacing))
    scans["phantom"] = (path, arguments.classes)
    for name, place in REAL_SCANS.items():
        if arguments.real is None or not (arguments.real / place).exists():
            print(
                f"{name}: skipped, {'no --real' if arguments.real is None else f'{arguments.real / place} is not there'}"
            )
            continue
        path = _make_scan_path(folder, name.replace(" ", "-"))
        try:
            write_real_scan(arguments.real / place, path)
        except MedunetError as error:
            print(f"{name}: skipped, {error}")
            continue
        scans[name] = (path, arguments.real_classes)
    shape = _to_network_shape(arguments.shape, arguments.spacing, arguments.network_spacing)
    for num_classes in sorted({number for _, numbers in scans.values() for number in numbers}):
        models = folder / "models" / str(num_classes)
        patch = write_models(
            models, num_classes, shape, arguments.network_spacing, arguments.features, arguments.patch, arguments.labels
        )
    print(f"patch: {'x'.join(map(str, patch))}", flush=True)
    return [
        Setting(
            scan=name,
            path=path,
            num_classes=num_classes,
            models=folder / "models" / str(num_classes),
            voxels=math.prod(nibabel.load(path).shape),
        )
        for name, (path, numbers) in scans.items()
        for num_classes in numbers
    ]


def write_models(
    folder: Path,
    num_classes: int,
    shape: Shape3,
    spacing_mm: float,
    features: int,
    patch: Sequence[int] | None,
    labels: Any,
) -> Shape3:
    """The same network for all tools; gives its patch."""
    size = None if patch is None else (patch[0], patch[1], patch[2])
    plan, task = build_shared_plan(num_classes, shape, spacing_mm, features=features, patch_size=size)
    network = write_medunet_model(folder / "medunet", plan, task, labels)
    if has_nnunet():
        write_nnunet_model(folder / "nnunet", plan, task, network)
    return plan.patch_size


@dataclass(frozen=True)
class _Job:
    """A measurement to be done while time is left; those that are not long come first, then round by round."""

    is_long: bool
    number: int
    seconds: float
    tool: str
    setting: Setting
    measure: Callable[[str, Setting], None]


class Bench:
    """Runs the tools and remembers what they took.

    Args:
        arguments: Options.
        folder: For masks and whatever the tools write.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.rows: Rows = {}
        self._arguments = arguments
        self._folder = folder
        self._end = time.perf_counter() + 60 * arguments.minutes
        self._infer = [sys.executable, "-m", "medunet", "infer"]
        known = subprocess.run([*self._infer, "--help"], capture_output=True, text=True, env=self._environment).stdout
        self._flips = ["--flips", "none"] if "--flips" in known else []

    def measure(self, settings: Sequence[Setting]) -> None:
        """Every tool once on every scan; then warm scans and more whole processes, short ones first, while time is left."""
        tools = self._arguments.tools
        for setting in settings:
            for tool in tools:
                self._measure_whole(tool, setting)
        if MEDUNET in tools:
            for setting in settings:
                for way in (MEDUNET, EQUAL):
                    self._measure_warm(way, setting)
        jobs = [job for setting in settings for tool in tools for job in self._list_more(tool, setting)]
        for job in sorted(jobs, key=lambda job: (job.is_long, job.number, job.seconds)):
            if time.perf_counter() + job.seconds < self._end and not self._get_row(job.tool, job.setting).faults:
                job.measure(job.tool, job.setting)

    def _list_more(self, tool: str, setting: Setting) -> Iterator[_Job]:
        """What is left to measure of a tool after its first scan."""
        whole = max(self._get_row(tool, setting).whole, default=0.0)
        long = _LONG_SHARE * 60 * self._arguments.minutes
        for number in range(1, self._arguments.rounds):
            yield _Job(whole > long, number, whole, tool, setting, self._measure_whole)
        if tool != MEDUNET:
            yield _Job(2 * whole > long, 1, 2 * whole, tool, setting, self._measure_warm)

    def measure_start(self) -> dict[str, list[float]]:
        """Seconds of `medunet infer` on a tiny scan with a tiny network, and of importing torch, in turns."""
        folder = self._folder / "start"
        write_models(folder, 3, TINY_SHAPE, 2.0, 4, (16, 16, 16), "smooth")
        scan = _make_scan_path(folder, "tiny")
        write_phantom(scan, TINY_SHAPE, (2.0, 2.0, 2.0))
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "medunet infer": self._build_medunet(scan, folder / "mask.nii.gz", folder),
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(1 + max(3, self._arguments.rounds)):
            for name, command in commands.items():
                outcome = self._run(command)
                if outcome.stopped:
                    print(f"start, {name}: {outcome.stopped}")
                elif number:  # the first reads files that lie on the disk
                    found[name].append(outcome.seconds)
        return found

    def compare_masks(self, settings: Sequence[Setting]) -> dict[str, str]:
        """For each setting, how speckled medunet's mask is and how many voxels the other tools give the same label."""
        found = {}
        for setting in settings:
            masks = {tool: self._make_mask_path(tool, setting) for tool in self._arguments.tools}
            codes = {tool: read_label_map(path).array[0] for tool, path in masks.items() if path.is_file()}
            if MEDUNET not in codes:
                continue
            mine = codes.pop(MEDUNET)
            parts = [
                f"{100 * compute_border_share(mine):.1f} % of voxels at borders",
                f"{len(np.unique(mine))} values",
            ]
            parts += [f"{100 * float((mine == other).mean()):.2f} % equal to {tool}" for tool, other in codes.items()]
            found[f"{setting.scan}, {setting.num_classes} classes"] = "; ".join(parts)
        return found

    def _measure_whole(self, tool: str, setting: Setting) -> None:
        row = self._get_row(tool, setting)
        mask = self._make_mask_path(tool, setting)
        mask.unlink(missing_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        outcome = self._run(self._build_whole(tool, setting, mask))
        row.peak_gib = max(row.peak_gib, outcome.peak_gib)
        fault = outcome.stopped or ("" if mask.is_file() else "it ended well, but wrote no mask")
        if fault:
            row.faults.append(f"whole: {fault}")
        else:
            row.whole.append(outcome.seconds)
        self._tell(tool, setting, f"whole {fault or f'{outcome.seconds:.1f} s'}, {outcome.peak_gib:.2f} GiB")

    def _measure_warm(self, way: str, setting: Setting) -> None:
        row = self._get_row(way, setting)
        if row.faults:
            return
        seconds = max(10.0, (self._end - time.perf_counter()) / 8)
        output = self._folder / "warm"
        output.mkdir(exist_ok=True)
        options = ["--rounds", str(self._arguments.rounds), "--seconds", f"{seconds:.0f}"]
        outcome = self._run(self._build_worker(way, setting, output, options + ["--equal"] * (way == EQUAL)))
        shutil.rmtree(output)
        if outcome.stopped:
            row.faults.append(f"warm: {outcome.stopped}")
            self._tell(way, setting, f"warm {outcome.stopped}")
            return
        result = json.loads(outcome.output.splitlines()[-1])
        row.warm_peak_gib = outcome.peak_gib
        later = result["scans"][1:]
        row.warm = [scan["seconds"] for scan in later]
        names = later[0]["stages"]
        row.stages = {name: statistics.median(scan["stages"][name] for scan in later) for name in names}
        row.patches, row.pass_seconds = result["patches"], result["pass_seconds"]
        row.loading, row.about = result["loading"], result["about"]
        self._tell(way, setting, f"warm {statistics.median(row.warm):.1f} s, floor {row.floor:.1f} s")

    def _build_whole(self, tool: str, setting: Setting, mask: Path) -> list[str]:
        if tool == MEDUNET:
            return self._build_medunet(setting.path, mask, setting.models)
        if tool == MONAI:
            return self._build_worker(MONAI, setting, mask.parent, ["--rounds", "0", "--no-floor"])
        program = Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"
        places = [
            "-i",
            str(setting.path.parent),
            "-o",
            str(mask.parent),
            "-m",
            str(setting.models / "nnunet"),
            "-f",
            "0",
        ]
        options = ["-device", self._arguments.device.split(":")[0], "--disable_tta", "--disable_progress_bar"]
        return [str(program), *places, *options, "-npp", "1", "-nps", "1"]

    def _build_medunet(self, scan: Path, mask: Path, models: Path) -> list[str]:
        places = [str(scan), "-o", str(mask), "--model", str(models / "medunet"), "--overwrite"]
        return [*self._infer, *places, "--device", self._arguments.device, *self._flips]

    def _build_worker(self, way: str, setting: Setting, output: Path, options: Sequence[str]) -> list[str]:
        model = setting.models / ("nnunet" if way == NNUNET else "medunet")
        places = ["--model", str(model), "--scan", str(setting.path), "--output", str(output)]
        module = ["-m", "peers.warm_inference", WORKERS[way]]
        return [sys.executable, *module, *places, "--device", self._arguments.device, *options]

    def _run(self, command: Sequence[str]) -> Outcome:
        return run_watched(command, environment=self._environment, memory_gib=self._arguments.memory_gb)

    @property
    def _environment(self) -> dict[str, str]:
        """Both tools shall be those of this interpreter; nnU-Net wants to be told of folders that it does not need."""
        paths = [str(Path(__file__).parent), str(Path(medunet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        nnunet = {f"nnUNet_{name}": str(self._folder / "nnunet" / name) for name in ("raw", "preprocessed", "results")}
        return nnunet | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _get_row(self, way: str, setting: Setting) -> Row:
        return self.rows.setdefault((setting.scan, setting.num_classes, way), Row())

    def _make_mask_path(self, tool: str, setting: Setting) -> Path:
        name = {MEDUNET: "mask", MONAI: "mask_0", NNUNET: setting.path.name.removesuffix("_0000.nii.gz")}[tool]
        return self._folder / "masks" / setting.path.parent.name / str(setting.num_classes) / tool / f"{name}.nii.gz"

    def _tell(self, way: str, setting: Setting, text: str) -> None:
        print(f"  {setting.scan}, {setting.num_classes} classes, {way}: {text}", flush=True)


def time_locating(arguments: argparse.Namespace) -> float:
    """How many times as fast a whole-body CT is segmented when the organs are located first (`bench_locate`)."""
    scan, truth = embed_pelvis(WHOLE_BODY_SHAPE)
    return compare(read_single_model(arguments.locate_model), scan, truth, rounds=arguments.rounds)


def judge(rows: Rows, settings: Sequence[Setting], device: str = "cpu") -> list[Goal]:
    """The goals of medunet's inference, for every scan where they can be told."""
    goals: list[Goal] = []
    for setting in settings:
        where = f"{setting.scan}, {setting.num_classes} classes"

        def get(way: str, setting: Setting = setting) -> Row:
            return rows.get((setting.scan, setting.num_classes, way), Row())

        equal, mine = get(EQUAL), get(MEDUNET)
        if equal.warm and equal.floor:
            goals.append(Goal(f"{where}: warm, equal / floor", statistics.median(equal.warm) / equal.floor, 1.15, "<="))
            outside = sum(seconds for name, seconds in equal.stages.items() if name != "network")
            goals.append(Goal(f"{where}: stages outside the network / floor", outside / equal.floor, 0.10, "<="))
        for peer in (NNUNET, MONAI):
            other = get(peer)
            if mine.whole and other.whole:
                ratio = statistics.median(other.whole) / statistics.median(mine.whole)
                goals.append(
                    Goal(
                        f"{where}: {peer} / medunet, whole process",
                        ratio,
                        5 if setting.num_classes >= MANY_CLASSES or device != "cpu" else 3,
                        ">=",
                    )
                )
            if mine.whole and other.peak_gib and setting.num_classes >= MANY_CLASSES:
                note = "" if other.whole else f"{peer} was stopped, so that it needs even more"
                share = mine.peak_gib / other.peak_gib
                goals.append(Goal(f"{where}: medunet / {peer}, peak memory", share, 0.25, "<=", note))
        if mine.whole:
            allowed = 1.5 + 4 * 2 * setting.voxels / GIB
            goals.append(Goal(f"{where}: peak memory of medunet, GiB", mine.peak_gib, allowed, "<="))
    return goals


def judge_start(start: dict[str, list[float]]) -> Goal:
    """`medunet infer` on a tiny scan against the import of torch."""
    if not all(start.values()):
        return Goal("start: not measured", float("nan"), float("nan"), "<=")
    torch_seconds = statistics.median(start["import torch"])
    seconds = statistics.median(start["medunet infer"])
    note = f"import of torch {torch_seconds:.2f} s"
    return Goal("start: medunet infer on a tiny scan, s", seconds, torch_seconds + START_ALLOWANCE_S, "<=", note)


def write_results(
    folder: Path,
    machine: dict[str, str],
    rows: Rows,
    masks: dict[str, str],
    start: dict[str, list[float]],
    goals: Sequence[Goal],
) -> None:
    """``inference.csv``, one row per tool and scan, and ``inference.json`` with everything."""
    median: Callable[[list[float]], float | str] = lambda values: round(statistics.median(values), 3) if values else ""  # noqa: E731
    stages = list(dict.fromkeys(name for row in rows.values() for name in row.stages))
    with (folder / "inference.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = [
            "scan",
            "classes",
            "tool",
            "whole_s",
            "num_whole",
            "peak_gib",
            "warm_s",
            "num_warm",
            "warm_peak_gib",
            "floor_s",
            "patches",
        ]
        writer.writerow([*head, "pass_s", *(f"{name}_s" for name in stages), "faults"])
        for (scan, num_classes, way), row in rows.items():
            counts = [median(row.whole), len(row.whole), round(row.peak_gib, 3)]
            counts += [median(row.warm), len(row.warm), round(row.warm_peak_gib, 3)]
            floor = [round(row.floor, 3) if row.floor else "", row.patches, row.pass_seconds]
            seconds = [round(row.stages[name], 3) if name in row.stages else "" for name in stages]
            writer.writerow([scan, num_classes, way, *counts, *floor, *seconds, "; ".join(row.faults)])
    content = {
        "machine": machine,
        "rows": [
            {"scan": scan, "classes": number, "tool": way, **dataclasses.asdict(row), "floor": row.floor}
            for (scan, number, way), row in rows.items()
        ],
        "masks": masks,
        "start": start,
        "goals": [dataclasses.asdict(goal) | {"is_reached": goal.is_reached} for goal in goals],
    }
    (folder / "inference.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _make_scan_path(folder: Path, name: str) -> Path:
    """nnU-Net takes all scans of a folder, and wants the number of the channel in the name."""
    path = folder / "scans" / name / f"{name}_0000.nii.gz"
    path.parent.mkdir(parents=True)
    return path


def _to_network_shape(shape: Shape3, spacing: Spacing, network_spacing: float) -> Shape3:
    i, j, k = (max(1, round(size * mm / network_spacing)) for size, mm in zip(shape, spacing, strict=True))
    return i, j, k


if __name__ == "__main__":
    main()
