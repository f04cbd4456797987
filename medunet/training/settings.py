"""What the user decides about a training, kept in the run folder so that it can be resumed."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from medunet.device import PrecisionName
from medunet.errors import InputError, ModelError
from medunet.io import write_json_atomic
from medunet.models.names import SETTINGS, STATE_FOLDER
from medunet.networks import ENCODER_NETWORKS, find_architecture
from medunet.networks.encoder_weights import Inflation
from medunet.planning import Configuration, Preset
from medunet.tasks import Task, load_task, suggest
from medunet.training.budget import Budget, parse_budget
from medunet.training.compilation import Compilation
from medunet.training.losses import LossName
from medunet.training.sampling import AugmentationMode, AugmentationName
from medunet.training.state import SAVE_SECONDS

logger = logging.getLogger(__name__)

Fold: TypeAlias = int | Literal["all", "cv"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "configuration": (*get_args(Configuration), "auto"),
    "preset": (*get_args(Preset), "residual"),
    "augmentation": get_args(AugmentationName),
    "inflation": get_args(Inflation),
    "locate": ("auto", "never"),
    "loss": ("auto", *get_args(LossName)),
    "precision": get_args(PrecisionName),
    "compile": get_args(Compilation),
}
_LISTS = ("mapping", "network_options")
_SMALLEST = {"seed": 0, "devices": 1, "nodes": 1, "workers": 0, "save_seconds": 0, "neighbour_slices": 1}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that the user decides.

    Attributes:
        task: Name or path of the recipe.
        data: Dataset folder; None for the task's phantoms.
        mapping: Names of structures in SEG and RTSTRUCT for labels, each as ``"CTV_p=prostate"``.
        fold: That validates; ``"all"`` trains on all cases, ``"cv"`` trains every fold.
        splits: File of own folds (`medunet.tasks.read_splits`); None takes nnU-Net's.
        budget: ``"10min"``, ``"2h"``, ``"5000it"``, ``"full"``; None takes the task's. The learning rate falls over
            exactly this. A time is shared by all folds and stages; iterations are those of each.
        configuration: ``"3d"``, ``"2d"``, ``"2.5d"``, ``"3d-low"``, ``"cascade"``, or ``"auto"`` by rule.
        neighbour_slices: Slices on each side that a ``"2.5d"`` network sees; None takes `medunet.planning.NEIGHBOUR_SLICES`.
        preset: nnU-Net's plain U-Net (``"default"``) or its residual encoders (``"M"``, ``"L"``, ``"XL"``, or ``"residual"`` for
            the one that the memory admits), where the budget is ``full``.
        memory_gb: Device memory that a plan may use; None takes the preset's.
        network: ``"auto"`` for the planner's U-Net, or a name of `medunet.networks.catalogue`.
        network_options: Of that network's config, each as ``"width=32"``.
        encoder: safetensors file of a 2D classifier whose weights are the start of that network's encoder.
        inflation: How its kernels get a third axis in a 3D network: ``"centre"`` or ``"repeat"``.
        augmentation: ``"fast"`` (plain torch), ``"torchio"`` (MONAI and TorchIO), ``"unet2015"`` (the policy of the U-Net's
            paper, in plain torch) or ``"none"``.
        locate: Whether a small network is trained that finds the structures, where that saves much: ``"auto"`` or ``"never"``.
        loss: Name in `medunet.training.losses`, or ``"auto"`` for the plan's.
        from_model: Model folder whose weights are the start; None starts anew.
        seed: Of weights, patches and augmentation.
        deterministic: Same seed, same device, same weights; needs a budget in iterations.
        device: ``"auto"`` or a torch device.
        devices: Processes on this machine, one per device; None for one, or what torchrun or SLURM started.
        nodes: Machines; None as for ``devices``.
        precision: ``"auto"``, ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        compile: Whether torch compiles the network: ``"auto"``, ``"on"`` or ``"off"``.
        workers: Threads that draw patches; None fits them to the machine, 0 draws in the training thread.
        save_seconds: Between two saves.

    Raises:
        InputError: If a value is not among the choices, or one of them makes another one useless.
    """

    task: str
    data: str | None = None
    mapping: tuple[str, ...] = ()
    fold: Fold = 0
    splits: str | None = None
    budget: str | None = None
    configuration: Configuration | Literal["auto"] = "auto"
    neighbour_slices: int | None = None
    preset: Preset | Literal["residual"] = "default"
    memory_gb: float | None = None
    network: str = "auto"
    network_options: tuple[str, ...] = ()
    encoder: str | None = None
    inflation: Inflation = "centre"
    augmentation: AugmentationName = "fast"
    locate: Literal["auto", "never"] = "auto"
    loss: LossName | Literal["auto"] = "auto"
    from_model: str | None = None
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    precision: PrecisionName = "auto"
    compile: Compilation = "auto"
    workers: int | None = None
    save_seconds: float = SAVE_SECONDS

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                msg = f"--{name} is '{value}'; {suggest(str(value), known)}"
                raise InputError(msg)
        for name, smallest in _SMALLEST.items():
            if (number := getattr(self, name)) is not None and number < smallest:
                # What only Python sets has no option.
                known_as = name if name == "save_seconds" else f"--{name.replace('_', '-')}"
                msg = f"{known_as} is {number:g}; expected {smallest} or more."
                raise InputError(msg)
        if not isinstance(self.fold, int) and self.fold not in ("all", "cv"):
            msg = f"--fold is '{self.fold}'; expected a number from 0 to 4, all, or cv for every fold."
            raise InputError(msg)
        if self.fold == "all" and self.splits is not None:
            msg = (
                "--fold all trains on all cases of the dataset, whatever --splits says; leave --splits away, and cases that "
                "shall not be learnt from out of the dataset."
            )
            raise InputError(msg)
        if self.neighbour_slices is not None and self.configuration != "2.5d":
            msg = (
                f"--neighbour-slices belongs to --configuration 2.5d, not to {self.configuration}; add or change that."
            )
            raise InputError(msg)
        if self.configuration == "2.5d" and self.augmentation == "torchio":
            msg = "--augmentation torchio does not change neighbour slices alike; use fast with --configuration 2.5d."
            raise InputError(msg)
        if self.mapping and self.data is None:
            msg = "--map names structures of a dataset, and there is none; add --data, or leave --map out."
            raise InputError(msg)
        if self.network != "auto":
            find_architecture(self.network)
            if self.preset != "default":
                msg = f"--preset {self.preset} and --network {self.network} both choose the network; leave one of them out."
                raise InputError(msg)
            if self.from_model is not None:
                msg = f"--from takes over the network of that model, whatever --network {self.network} says; leave one of them out."
                raise InputError(msg)
        if self.encoder is not None and self.network not in ENCODER_NETWORKS:
            msg = (
                f"--encoder is for a network with the encoder of a classifier, and --network is '{self.network}'; choose one of "
                f"{', '.join(ENCODER_NETWORKS)}."
            )
            raise InputError(msg)
        self.parse_network_options()
        if self.memory_gb is not None and self.memory_gb <= 0:
            msg = f"--memory-gb is {self.memory_gb}; expected the device's memory in GB, above 0."
            raise InputError(msg)

    @property
    def augmentation_mode(self) -> AugmentationMode:
        """Who changes the patches; which changes they undergo is in the plan."""
        return "fast" if self.augmentation == "unet2015" else self.augmentation

    def parse_network_options(self) -> dict[str, Any]:
        """Name -> value, as JSON where it is JSON and as text otherwise.

        Raises:
            InputError: If one has no equals sign, or there is no network that it could belong to.
        """
        if self.network_options and self.network == "auto":
            msg = "--network-option belongs to a network; name it with --network."
            raise InputError(msg)
        options: dict[str, Any] = {}
        for text in self.network_options:
            name, sign, value = text.partition("=")
            if not sign or not name or not value:
                msg = f"--network-option is '{text}'; expected a name and a value, such as width=32."
                raise InputError(msg)
            try:
                options[name] = json.loads(value)
            except ValueError:
                options[name] = value
        return options

    def resolve_budget(self, task: Task) -> Budget:
        """The budget that was asked for, else the task's.

        Raises:
            InputError: If it is not understood, or another setting needs another kind of budget.
        """
        text = self.budget or task.budget
        budget = parse_budget(text)
        if self.deterministic and budget.iterations is None:
            msg = f"--deterministic needs a budget in iterations, such as 2000it; '{text}' depends on the clock."
            raise InputError(msg)
        if self.preset != "default" and not budget.is_full:
            msg = "--preset chooses among nnU-Net's networks, which a budget of full trains; add --budget full."
            raise InputError(msg)
        return budget


def build_settings(task: str | Path, data: str | Path | None, options: dict[str, Any]) -> TrainingSettings:
    """Settings with paths made absolute, so that a run can be resumed from any folder.

    Raises:
        InputError: If an option does not exist (the nearest is named), or a value is not among the choices.
    """
    known = {field.name for field in dataclasses.fields(TrainingSettings)} - {"task", "data"}
    if unknown := sorted(set(options) - known):
        msg = f"There is no training option '{unknown[0]}'; {suggest(unknown[0], known)}"
        raise InputError(msg)
    paths = {
        name: None if value is None else str(Path(value).resolve())
        for name in ("splits", "from_model", "encoder")
        if (value := options.get(name)) is not None
    }
    return TrainingSettings(
        task=str(Path(task).resolve() if Path(task).is_file() else task),
        data=None if data is None else str(Path(data).resolve()),
        **options | paths | {name: tuple(options.get(name, ())) for name in _LISTS},
    )


def write_settings(folder: Path, settings: TrainingSettings) -> None:
    """Write ``state/settings.json`` below a run folder."""
    write_json_atomic(folder / STATE_FOLDER / SETTINGS, dataclasses.asdict(settings))


def has_settings(folder: Path) -> bool:
    """Whether a training was begun in a folder."""
    return (folder / STATE_FOLDER / SETTINGS).is_file()


def take_over_settings(folder: Path, asked: TrainingSettings, task: Task) -> TrainingSettings:
    """The settings of the run that is resumed; what was asked for now and differs is named, because it has no effect."""
    settings = read_settings(folder)
    if (found := load_task(settings.task).name) != task.name:
        msg = f"{folder} is a training of task '{found}', not of '{task.name}'; give that task, or another --output."
        raise InputError(msg)
    ignored = [
        field.name
        for field in dataclasses.fields(asked)
        if field.name != "task" and getattr(asked, field.name) not in (field.default, getattr(settings, field.name))
    ]
    if ignored:
        logger.warning("--resume goes on with the settings of the run; ignored: %s", ", ".join(ignored))
    return settings


def read_settings(folder: Path) -> TrainingSettings:
    """The settings of a run.

    Raises:
        ModelError: If they are missing or damaged.
    """
    path = folder / STATE_FOLDER / SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainingSettings(**content | {name: tuple(content.get(name, ())) for name in _LISTS})
    except InputError:
        raise
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder} cannot be resumed: {path.name} is missing or damaged. Start a new training without --resume."
        raise ModelError(msg) from error
