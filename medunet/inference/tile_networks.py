"""Networks and mirrored passes that look at the same tiles, as one: the mean of their logits.

Averaging the folds and the mirrored passes of a tile, as nnU-Net does with whole volumes (doi:10.1038/s41592-020-01008-z),
keeps one volume of sums in memory, whatever their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medunet.augmentation import choose_policy
from medunet.device import is_out_of_memory
from medunet.inference.at_once import AtOnce
from medunet.planning import Plan
from medunet.tasks import Task, compute_mirrored_outputs

LEFT_RIGHT = 0
"""The axis of a plan's grid along which a patient's sides lie."""

Axes = tuple[int, ...]
OnMembers = Callable[[int, Sequence[Tensor], Tensor], Callable[[], None]]
"""Called for a batch of tiles with logits ``(B, outputs, *patch_size)``: the number of a network, its mirrored passes, and their
mean; where tiles are not mirrored, once with 0, all networks and their mean. Returns what is called when the batch is done."""


class TileNetworks:
    """Several networks, each seeing a tile several times, as one.

    Args:
        networks: ``(B, C, *patch_size)`` to logits ``(B, outputs, *patch_size)``, on the same device.
        flips: Axes that are mirrored in each pass; ``()`` is the tile as it is.
        mirrored_channels: Input channel -> the one that stands for it with left and right swapped.
        mirrored_outputs: The same for the outputs.
        batch_size: Tiles that go through a network at once, mirrored ones among them; halved when memory does not suffice.
            An `AtOnce` is shared with whatever else computes the scan.
        on_members: Looks at what every member says; None when nobody wants to know. What it returns is called once all
            networks have answered for a batch: where memory does not suffice for one of them, the batch is computed again, and
            nothing may count twice.
    """

    def __init__(
        self,
        networks: Sequence[Callable[[Tensor], Tensor]],
        flips: Sequence[Axes] = ((),),
        *,
        mirrored_channels: Sequence[int] = (),
        mirrored_outputs: Sequence[int] = (),
        batch_size: int | AtOnce = 1,
        on_members: OnMembers | None = None,
    ) -> None:
        self._networks = list(networks)
        self._flips = list(flips)
        self._mirrored_channels = list(mirrored_channels)
        self._mirrored_outputs = list(mirrored_outputs)
        self._at_once = AtOnce.of(batch_size)
        self._on_members = on_members

    @property
    def num_passes(self) -> int:
        """Times that a network computes a tile."""
        return len(self._networks) * len(self._flips)

    def __call__(self, tiles: Tensor) -> Tensor:
        """Mean logits ``(B, outputs, *patch_size)`` in float32, whatever the networks compute in."""
        means: list[Tensor] = []
        keep: list[Callable[[], None]] = []
        for number, network in enumerate(self._networks):
            passes = self._pass(network, tiles)
            means.append(_average(passes))
            if self._on_members is not None and len(passes) > 1:
                keep.append(self._on_members(number, passes, means[-1]))
        mean = _average(means)
        if self._on_members is not None and len(self._flips) == 1 < len(means):
            keep.append(self._on_members(0, means, mean))
        for keep_counted in keep:
            keep_counted()
        return mean

    def _pass(self, network: Callable[[Tensor], Tensor], tiles: Tensor) -> list[Tensor]:
        """The logits of every mirrored pass, as they lie in the tile."""
        passes = torch.cat([self._mirror(tiles, axes, self._mirrored_channels) for axes in self._flips])
        logits = self._compute(network, passes)
        return [
            self._mirror(mirrored, axes, self._mirrored_outputs).float()
            for axes, mirrored in zip(self._flips, torch.split(logits, len(tiles)), strict=True)
        ]

    def _compute(self, network: Callable[[Tensor], Tensor], passes: Tensor) -> Tensor:
        """All passes, as many at once as memory allows; where fewer fit, it goes on with those that are not done."""
        parts: list[Tensor] = []
        num_done = 0
        while num_done < len(passes):
            part = passes[num_done : num_done + self._at_once.batch_size]
            try:
                parts.append(network(part))
            except (RuntimeError, MemoryError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
            else:
                num_done += len(part)
                continue
            self._at_once.take_fewer(len(part), what="passes")
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _mirror(maps: Tensor, axes: Axes, partners: Sequence[int]) -> Tensor:
        """Swap the two ends of axes, and with left and right what belongs to the sides; it is its own inverse."""
        if not axes:
            return maps
        maps = maps.flip([2 + axis for axis in axes])
        if LEFT_RIGHT in axes and any(number != partner for number, partner in enumerate(partners)):
            return maps[:, list(partners)]
        return maps


def list_flips(plan: Plan) -> list[Axes]:
    """All ways to mirror a tile that the network knows from its training, the unchanged tile first."""
    axes = [axis for axis in choose_policy(plan).mirror_axes if plan.patch_size[axis] > 1]
    return [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]


def list_mirrored_channels(plan: Plan, task: Task) -> tuple[int, ...]:
    """Input channel -> its partner with left and right swapped: those of a previous stage's labels have sides, images not."""
    num_images = len(plan.normalization) * (1 + 2 * plan.num_neighbour_slices)
    images = tuple(range(num_images))
    if plan.num_previous_labels == 0:
        return images
    outputs = compute_mirrored_outputs(task)
    labels = outputs if task.has_regions else tuple(partner - 1 for partner in outputs[1:])  # without background
    return (*images, *(num_images + partner for partner in labels))


def _average(logits: Sequence[Tensor]) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    total = logits[0].clone()
    for one in logits[1:]:
        total += one
    return total.div_(len(logits))
