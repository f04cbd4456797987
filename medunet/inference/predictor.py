"""`Predictor`: all networks of a model on one device, from a scan in memory to a label map.

Networks that see the same patches share the preprocessing and the tiles: each tile passes through all of them, and their
logits are averaged, as nnU-Net does with its folds (doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from medunet.inference.cascade import append_previous_labels
from medunet.inference.logits import OnTiles, compute_logits
from medunet.inference.prediction import Prediction, build_patch_key, build_voxel_key, merge_predictions
from medunet.inference.restoring import restore_predictions
from medunet.models import AnyModel, Model
from medunet.planning import Plan
from medunet.preprocessing import preprocess_image
from medunet.volume import Volume, build_grid


class Predictor:
    """The networks of a model, ready on a device.

    Args:
        model: One network or an ensemble; its post-processing is left to the caller.
        device: That computes; all weights stay there.
        precision: Of the networks' arithmetic.
    """

    def __init__(self, model: AnyModel, device: torch.device, precision: str) -> None:
        self._task = model.task
        self._device = device
        self._precision = precision
        groups: dict[Hashable, list[Model]] = {}
        for member in model.members:
            groups.setdefault((build_patch_key(member.plan), _identify(member.low)), []).append(member)
        self._groups = [self._build_group(members) for members in groups.values()]

    def segment(self, image: Volume) -> Volume:
        """The label map of a scan on its own grid, without post-processing.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
        """
        return restore_predictions(self.predict(image), image, self._task)

    def predict(
        self,
        image: Volume,
        *,
        on_tiles: OnTiles | None = None,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> list[Prediction]:
        """What the networks say about a scan.

        Args:
            image: ``(C, I, J, K)`` with the channels of the task.
            on_tiles: Called with the number of finished tiles and of all; where plans differ, for one after the other.
            on_stage: Called with ``"prepare"``, ``"low"`` or ``"network"`` when the stage has been done.

        Returns:
            One prediction per plan.
        """
        predictions = []
        for _, groups in groupby(self._groups, key=lambda group: build_voxel_key(group.plan)):
            same_voxels = list(groups)
            prepared = preprocess_image(image, same_voxels[0].plan)
            on_stage("prepare")
            for group in same_voxels:
                seen = prepared
                if group.low is not None:
                    seen = append_previous_labels(prepared, group.low.segment(image), self._task)
                    on_stage("low")
                predictions.append(self._predict_group(group, seen, on_tiles))
                on_stage("network")
        return merge_predictions(predictions)

    def _build_group(self, members: Sequence[Model]) -> _Group:
        networks = [member.network for member in members]
        first = members[0]
        return _Group(
            plan=first.plan,
            network=(networks[0] if len(networks) == 1 else _MeanOfLogits(networks)).to(self._device).eval(),
            num_networks=len(networks),
            low=None if first.low is None else Predictor(first.low, self._device, self._precision),
        )

    def _predict_group(self, group: _Group, seen: Volume, on_tiles: OnTiles | None) -> Prediction:
        logits = compute_logits(group.network, seen, group.plan, self._device, self._precision, on_tiles=on_tiles)
        return Prediction(
            logits=logits,
            grid=build_grid(seen.spatial_shape, seen.affine),
            plan=group.plan,
            num_networks=group.num_networks,
        )


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Networks that see the same patches.

    Attributes:
        plan: Of all of them.
        network: They, as one.
        num_networks: How many they are.
        low: Of a cascade, what segments the scan before them.
    """

    plan: Plan
    network: nn.Module
    num_networks: int
    low: Predictor | None


class _MeanOfLogits(nn.Module):
    """Several networks as one."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, patches: Tensor) -> Tensor:
        """Mean logits in float32, whatever the networks compute in."""
        first, *others = self.networks
        total: Tensor = first(patches).float()
        for network in others:
            total += network(patches)
        return total / len(self.networks)


def _identify(low: AnyModel | None) -> Hashable:
    """Equal for first stages of the same weights; a model that was never written is only equal to itself."""
    return None if low is None else low.training.weights_sha256 or id(low)
