"""`Predictor`: all networks of a model on one device, from a scan in memory to a label map.

Networks that see the same patches share the preprocessing and the tiles: each tile passes through all of them, and their
logits are averaged, as nnU-Net does with its folds (doi:10.1038/s41592-020-01008-z). Where all networks share a plan, the
label map is painted while the tiles advance, and only the logits of one row of tiles are in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from medunet.device import Precision, measure_room
from medunet.errors import InputError
from medunet.inference.at_once import AtOnce, Experience, Portions
from medunet.inference.backends import FOLDER, Backend, build_backend
from medunet.inference.cascade import append_previous_labels
from medunet.inference.locating import Locator, Region, segment_located
from medunet.inference.logits import collect_logits, count_tiles_at_once, stream_logits
from medunet.inference.members import MembersWatch, name_members
from medunet.inference.memory_need import MemoryNeed, Work, choose_portions, format_gb, measure_axes
from medunet.inference.prediction import Prediction, build_patch_key, build_voxel_key, merge_predictions
from medunet.inference.restoring import LabelPainter, restore_predictions
from medunet.inference.settings import InferenceSettings
from medunet.inference.skipping import find_needed_tiles
from medunet.inference.sliding_window import OnTiles, PredictTiles, Slab
from medunet.inference.tile_networks import Axes, OnMembers, TileNetworks, list_flips, list_mirrored_channels
from medunet.inference.tiling import Box, plan_tiles
from medunet.models import AnyModel, Int8Record, Model, SpeedRecord
from medunet.models.names import INT8
from medunet.planning import Plan
from medunet.postprocessing import AgreementCounts
from medunet.preprocessing import preprocess_image
from medunet.tasks import Task, compute_mirrored_outputs
from medunet.volume import Volume, build_grid

OnStage = Callable[[str], None]
"""Called with ``"locate"``, ``"prepare"``, ``"low"``, ``"network"``, ``"restore"`` or ``"maps"`` when a part of that stage has been
done."""
OnSlab = Callable[[Slab, Volume, int], None]
"""Called with finished logits, the network's grid and the axis along which they come."""


def _ignore(stage: str) -> None:
    pass


logger = logging.getLogger(__name__)


class Predictor:
    """The networks of a model, ready on a device.

    Args:
        model: One network or an ensemble; its post-processing is left to the caller.
        device: That computes; all weights stay there.
        precision: Of the networks' arithmetic.
        settings: How much is computed for a scan.
    """

    def __init__(
        self,
        model: AnyModel,
        device: torch.device,
        precision: Precision,
        settings: InferenceSettings | None = None,
    ) -> None:
        self._task = model.task
        self._device = device
        self._precision = precision
        self._settings = settings or InferenceSettings()
        self._int8: Int8Record | None = None
        members = model.members[:1] if self._settings.takes_one_network else model.members
        groups: dict[Hashable, list[Model]] = {}
        for member in members:
            groups.setdefault((build_patch_key(member.plan), _identify(member.low)), []).append(member)
        self._speed = model.speed
        self._groups = [self._build_group(group) for group in groups.values()]
        locator = members[0].locator if self._settings.resolve_locate(self._speed) else None
        self._locator = None if locator is None else Locator(locator, device, precision, self._settings)

    @property
    def shares_plan(self) -> bool:
        """Whether all networks see the same patches, so that they have probabilities in common."""
        return len(self._groups) == 1

    @property
    def description(self) -> str:
        """One line for people: what computes, and how often."""
        parts = [self._groups[0].networks[0].description]
        for group in self._groups:
            patch = "x".join(map(str, group.plan.patch_size))
            num_networks, num_flips = len(group.networks), self._count_flips(group)
            several = "" if num_networks == 1 else "s"
            counts = [f"{num_networks} network{several}"] if num_networks > 1 or len(self._groups) > 1 else []
            counts += [f"{num_flips} mirrored passes"] if num_flips > 1 else []
            parts += [", ".join(counts) + (f" of {patch}" if len(self._groups) > 1 else "")] if counts else []
        return "; ".join(parts)

    @property
    def int8(self) -> Int8Record | None:
        """What eight bits cost and scored, where the network computes in them; None where it does not."""
        return self._int8

    @property
    def members(self) -> str | None:
        """Whose agreement can be counted, in the words of `AgreementCounts`; None where there is one member, or plans differ."""
        if len(self._groups) > 1:
            return None
        (group,) = self._groups
        return name_members(len(group.networks), self._count_flips(group), self._settings.resolve_step())

    def estimate_memory(self, image: Volume) -> MemoryNeed:
        """What a scan takes from its file to its mask, with portions that the settings allow.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task; its voxels do not matter.

        Raises:
            InputError: If it does not fit into the memory that the settings allow.
        """
        most = max(self._list_needs(image), key=lambda need: need.limited_bytes)
        room = self._measure_room()
        if room is not None and most.limited_bytes > room:
            logger.warning(
                "This scan needs about %s of memory, and %s are free; it is tried in the smallest portions.",
                format_gb(most.limited_bytes),
                format_gb(room),
            )
        return most

    def _list_needs(self, image: Volume) -> list[MemoryNeed]:
        """Of all that look at a scan, one after the other."""
        needs = [self._fit(group, image)[1] for group in self._groups]
        needs += [need for group in self._groups if group.low is not None for need in group.low._list_needs(image)]
        return needs if self._locator is None else [*needs, self._locator.estimate_memory(image)]

    def segment(self, image: Volume) -> Volume:
        """The label map of a scan on its own grid, without post-processing.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
        """
        return self.segment_with_agreement(image, counts_agreement=False)[0]

    def compute_patches(self, patches: Tensor) -> Tensor:
        """Logits ``(B, outputs, *patch_size)`` of the first network, such as to see how long it takes.

        Args:
            patches: ``(B, C, *patch_size)`` float32; of a network without padding, tiles with their surroundings
                (`build_example_tile`).
        """
        return self._groups[0].networks[0](patches)

    def prepare(self, image: Volume) -> Volume:
        """What the networks see of a scan; of several plans, those of the first.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
        """
        first = self._groups[0]
        return self._add_previous(first, preprocess_image(image, first.plan), image, _ignore)

    def segment_with_agreement(
        self,
        image: Volume,
        *,
        counts_agreement: bool = True,
        on_tiles: OnTiles | None = None,
        on_stage: OnStage = _ignore,
        on_slab: OnSlab | None = None,
    ) -> tuple[Volume, AgreementCounts | None]:
        """The label map of a scan on its own grid, without post-processing, and how far its members agree.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
            counts_agreement: Whether to count it, which takes some time of its own.
            on_tiles: Called with the number of finished tiles and of all; where plans differ, for one after the other.
            on_stage: Called when a part of a stage has been done.
            on_slab: Called with the mean logits of all networks, slab by slab, where they share a plan.

        Returns:
            The agreement is None where there is only one member, where plans differ, or where it is not counted.

        Raises:
            InputError: If logits are asked for, and the networks do not share a plan.
        """
        if not self.shares_plan:
            if on_slab is not None:
                msg = (
                    f"The model averages networks of {len(self._groups)} plans, whose probabilities share no grid before "
                    "the scan's; maps of probabilities and uncertainty need networks of one plan."
                )
                raise InputError(msg)
            predictions = self.predict(image, on_tiles=on_tiles, on_stage=on_stage)
            labels = restore_predictions(predictions, image, self._task, experience=self._groups[0].experience)
            on_stage("restore")
            return labels, None
        (group,) = self._groups
        locator = self._locator if on_slab is None else None  # maps are made of the whole scan

        def find_region() -> Region | None:
            assert locator is not None  # nobody looks without one
            region = locator.find_region(image, group.plan)
            on_stage("locate")
            return region

        def segment(region: Region | None) -> tuple[Volume, AgreementCounts | None]:
            return self._segment_group(
                group, image, region, on_tiles, on_stage, on_slab, counts_agreement=counts_agreement
            )

        return segment_located(None if locator is None else find_region, segment, on_fallback=logger.warning)

    def _segment_group(
        self,
        group: _Group,
        image: Volume,
        region: Region | None,
        on_tiles: OnTiles | None,
        on_stage: OnStage,
        on_slab: OnSlab | None,
        *,
        counts_agreement: bool,
    ) -> tuple[Volume, AgreementCounts | None]:
        prepared = preprocess_image(image, group.plan, region=region)
        on_stage("prepare")
        at_once = self._begin(group, image)
        watch = None
        if counts_agreement:
            num_networks, num_flips = len(group.networks), self._count_flips(group)
            watch = MembersWatch(self._task, num_networks, num_flips, self._settings.resolve_step(), self._device)
        labels = paint_labels(
            self._build_tiles(group, at_once, None if watch is None else watch.count),
            self._add_previous(group, prepared, image, on_stage),
            image,
            group.plan,
            self._task,
            self._device,
            self._settings,
            at_once=at_once,
            on_tiles=on_tiles,
            on_stage=on_stage,
            on_slab=on_slab,
        )
        return labels, None if watch is None else watch.read()

    def predict(
        self,
        image: Volume,
        *,
        on_tiles: OnTiles | None = None,
        on_stage: OnStage = _ignore,
    ) -> list[Prediction]:
        """What the networks say about a scan, all logits at once.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
            on_tiles: Called with the number of finished tiles and of all; where plans differ, for one after the other.
            on_stage: Called when a stage has been done.

        Returns:
            One prediction per plan.
        """
        predictions = []
        for _, groups in groupby(self._groups, key=lambda group: build_voxel_key(group.plan)):
            same_voxels = list(groups)
            prepared = preprocess_image(image, same_voxels[0].plan)
            on_stage("prepare")
            for group in same_voxels:
                seen = self._add_previous(group, prepared, image, on_stage)
                predictions.append(self._predict_group(group, seen, image, on_tiles))
                on_stage("network")
        return merge_predictions(predictions)

    def _add_previous(self, group: _Group, prepared: Volume, image: Volume, on_stage: OnStage) -> Volume:
        if group.low is None:
            return prepared
        seen = append_previous_labels(prepared, group.low.segment(image), self._task)
        on_stage("low")
        return seen

    def _build_group(self, members: Sequence[Model]) -> _Group:
        first = members[0]
        return _Group(
            plan=first.plan,
            networks=[self._build_backend(member) for member in members],
            weight_bytes=sum(parameter.nbytes for parameter in first.network.parameters()),
            # Its labels are made as in training, whatever is asked for: the second stage knows no others.
            low=None
            if first.low is None
            else Predictor(first.low, self._device, self._precision, self._settings.keep_only_computing()),
        )

    def _build_backend(self, member: Model) -> Backend:
        cache = member.folder / FOLDER if member.folder.is_dir() else None
        if self._settings.may_take_int8(self._device) and member.int8 is not None and member.int8.is_used:
            try:
                backend = build_int8_backend(member, member.int8, self._device, self._precision, cache)
            except InputError as error:
                logger.warning("Eight bits are left out, and the network computes as usual: %s", error)
            else:
                self._int8 = member.int8
                return backend
        return build_backend(
            [member.network], member.plan, self._device, self._precision, name=self._settings.backend, cache=cache
        )

    def _fit(self, group: _Group, image: Volume) -> tuple[Portions, MemoryNeed]:
        shape, spacing = measure_axes(image)
        work = Work(
            plan=group.plan,
            num_networks=len(group.networks),
            num_flips=self._count_flips(group),
            step_fraction=self._settings.resolve_step(),
            backend=group.networks[0].name,
            precision=self._precision,
            on_device=self._device.type != "cpu",
            keeps_logits=len(self._groups) > 1,
            label_bytes=1 if max(self._task.all_values) <= 255 else 4,
            weight_bytes=group.weight_bytes,
        )
        return choose_portions(
            shape,
            spacing,
            work,
            group.experience.limit(get_largest_portions(group.plan, self._settings)),
            memory_gb=self._settings.memory_gb,
            room=self._measure_room(),
            num_channels=image.num_channels,
            voxel_bytes=image.array.dtype.itemsize,
        )

    def _begin(self, group: _Group, image: Volume) -> AtOnce:
        """What a scan is begun with; what it turns out to be too much for is left out for the next ones."""
        return AtOnce(self._fit(group, image)[0], group.experience)

    def _measure_room(self) -> int | None:
        """Bytes that may be taken where nobody has set a limit; None where that is not known, or there is a limit."""
        return measure_room(self._device) if self._settings.memory_gb is None else None

    def _build_tiles(self, group: _Group, at_once: AtOnce, on_members: OnMembers | None = None) -> TileNetworks:
        return build_tile_networks(
            group.networks,
            group.plan,
            self._task,
            self._settings,
            self._speed,
            at_once=at_once,
            on_members=on_members,
        )

    def _count_flips(self, group: _Group) -> int:
        return len(choose_flips(group.plan, self._settings, self._speed))

    def _predict_group(self, group: _Group, seen: Volume, image: Volume, on_tiles: OnTiles | None) -> Prediction:
        at_once = self._begin(group, image)
        logits = collect_logits(
            self._build_tiles(group, at_once),
            seen,
            group.plan,
            self._device,
            step_fraction=self._settings.resolve_step(),
            batch_size=at_once,
            needed=_find_needed(image, seen, group.plan, self._settings),
            on_tiles=on_tiles,
        )
        return Prediction(
            logits=logits,
            grid=build_grid(seen.spatial_shape, seen.affine),
            plan=group.plan,
            num_networks=len(group.networks),
        )


def build_int8_backend(
    member: Model, record: Int8Record, device: torch.device, precision: Precision, cache: Path | None
) -> Backend:
    """The network in eight bits, as it was measured.

    Args:
        member: One network.
        record: What was measured.
        device: The CPU.
        precision: Of what is not in eight bits.
        cache: Folder of converted networks.

    Raises:
        InputError: If the record or the conversion belongs to other weights, the conversion is missing, damaged or made by
            another release, or a package is missing.
    """
    if record.weights_sha256 != member.training.weights_sha256:
        msg = f"{INT8} was measured with other weights; run medunet quantize again."
        raise InputError(msg)
    return build_backend([member.network], member.plan, device, precision, cache=cache, numbers="int8")


def build_tile_networks(
    networks: Sequence[PredictTiles],
    plan: Plan,
    task: Task,
    settings: InferenceSettings,
    speed: SpeedRecord | None,
    *,
    at_once: AtOnce | None = None,
    on_members: OnMembers | None = None,
) -> TileNetworks:
    """Networks of one plan with the mirrored passes that the settings ask for, as one.

    Args:
        networks: Each gives logits of tiles.
        plan: Of all of them.
        task: Knows which labels have sides.
        settings: What the user decided.
        speed: What was measured after training.
        at_once: How much is computed at a time; None begins with as much as the settings allow.
        on_members: Looks at what every member says, see `TileNetworks`.
    """
    return TileNetworks(
        networks,
        choose_flips(plan, settings, speed),
        mirrored_channels=list_mirrored_channels(plan, task),
        mirrored_outputs=compute_mirrored_outputs(task),
        batch_size=at_once or AtOnce(get_largest_portions(plan, settings)),
        on_members=on_members,
    )


def choose_flips(plan: Plan, settings: InferenceSettings, speed: SpeedRecord | None) -> list[Axes]:
    """The passes that every tile makes; at least the one that is not mirrored."""
    return list_flips(plan) if settings.resolve_flips(speed) else [()]


def paint_labels(
    tiles: PredictTiles,
    seen: Volume,
    image: Volume,
    plan: Plan,
    task: Task,
    device: torch.device,
    settings: InferenceSettings,
    *,
    at_once: AtOnce | None = None,
    on_tiles: OnTiles | None = None,
    on_stage: OnStage = _ignore,
    on_slab: OnSlab | None = None,
) -> Volume:
    """The label map of a scan, painted while the tiles advance.

    Args:
        tiles: Gives logits of tiles.
        seen: What the networks see, on their grid.
        image: The scan, on the grid of the result.
        plan: Of the networks.
        task: Gives the values.
        device: That computes.
        settings: Steps, air.
        at_once: How much is computed at a time; None begins with as much as the settings allow.
        on_tiles: Called with the number of finished tiles and of all.
        on_stage: Called with ``"network"``, ``"restore"`` and, where somebody listens to the slabs, ``"maps"`` in turns.
        on_slab: Called with the mean logits, slab by slab.
    """
    tiling = plan_tiles(seen.spatial_shape, plan.patch_size, step_fraction=settings.resolve_step())
    at_once = at_once or AtOnce(get_largest_portions(plan, settings))
    painter = LabelPainter(seen, tiling.streaming_axis, image, task, at_once=at_once)
    for slab in stream_logits(
        tiles,
        seen,
        plan,
        device,
        axis=tiling.streaming_axis,
        step_fraction=settings.resolve_step(),
        batch_size=at_once,
        # What is not computed has no probabilities.
        needed=_find_needed(image, seen, plan, settings) if on_slab is None else None,
        on_tiles=on_tiles,
    ):
        on_stage("network")
        painter.add(slab)
        on_stage("restore")
        if on_slab is not None:
            on_slab(slab, seen, tiling.streaming_axis)
            on_stage("maps")
    return painter.finish()


def get_largest_portions(plan: Plan, settings: InferenceSettings) -> Portions:
    """How much is computed at a time where memory does not matter."""
    return Portions(batch_size=settings.batch_size or count_tiles_at_once(plan))


def _find_needed(image: Volume, seen: Volume, plan: Plan, settings: InferenceSettings) -> Callable[[Box], bool] | None:
    return find_needed_tiles(image, seen, plan.modality) if settings.skip_air else None


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Networks that see the same patches.

    Attributes:
        plan: Of all of them.
        networks: Each on patches.
        weight_bytes: Of one of them.
        low: Of a cascade, what segments the scan before them.
        experience: What memory was enough for.
    """

    plan: Plan
    networks: Sequence[Backend]
    weight_bytes: int
    low: Predictor | None
    experience: Experience = field(default_factory=Experience)


def _identify(low: AnyModel | None) -> Hashable:
    """Equal for first stages of the same weights; a model that was never written is only equal to itself."""
    return None if low is None else low.training.weights_sha256 or id(low)
