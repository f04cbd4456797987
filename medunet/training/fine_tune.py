"""Fine-tuning: a new training begins with what another model has learnt, as far as it fits, and says what did not.

Weights fit only a network of the same shape on voxels of the same size, so the new plan takes over both from the source
where the images are of the same kind (as in nnU-Net, which trains the fine-tuned network on the plan of the pretrained one;
Isensee 2021, doi:10.1038/s41592-020-01008-z). Channels and labels may differ: they are matched by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.errors import ModelError
from medunet.models.folder import Model
from medunet.networks import PatchNetwork, build_network
from medunet.planning import NetworkPlan, Plan
from medunet.preprocessing import name_slices
from medunet.tasks import Task
from medunet.volume import Shape3

_MIN_PATCH_EDGE = 8
_ENCODER = "network.encoder."


@dataclass(frozen=True, kw_only=True)
class NameMatch:
    """Channels or labels of two tasks, matched by name.

    Attributes:
        kept: Names that both have.
        fresh: Names that only the new one has.
        left_behind: Names that only the source has.
    """

    kept: tuple[str, ...]
    fresh: tuple[str, ...]
    left_behind: tuple[str, ...]

    def describe(self) -> str:
        """In words, such as ``"kept background, bladder; fresh: rectum"``."""
        parts = (("kept", self.kept), ("fresh:", self.fresh), ("left behind:", self.left_behind))
        return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What a network took over.

    Attributes:
        source: Name of the source's folder.
        loaded: Tensors that were taken over whole.
        in_part: Tensors of which some channels or labels were taken over.
        fresh: Tensors that keep their random start.
        channels: Inputs of the network.
        outputs: Outputs of the network.
    """

    source: str
    loaded: tuple[str, ...]
    in_part: tuple[str, ...]
    fresh: tuple[str, ...]
    channels: NameMatch
    outputs: NameMatch

    def describe(self) -> list[str]:
        """A few lines for people."""
        num_tensors = len(self.loaded) + len(self.in_part) + len(self.fresh)
        first = f"{len(self.loaded)} of {num_tensors} tensors loaded from {self.source}"
        if self.in_part:
            first += f", {len(self.in_part)} in part"
        lines = [first, f"input: {self.channels.describe()}", f"head: {self.outputs.describe()}"]
        if self.fresh:
            lines.append(f"fresh layers: {', '.join(_name_layers(self.fresh))}")
        return lines


def load_matching_weights(network: PatchNetwork, task: Task, plan: Plan, source: Model) -> TransferReport:
    """Copy from a model into a fresh network whatever fits.

    Stages are counted from the finest, so that a deeper or shallower network shares the fine ones. Inputs and outputs are
    matched by the names of channels and labels: those that both tasks have are copied, the others keep their random
    start. A layer whose kernel or width differs stays fresh, and so do the scale and shift of its normalisation. Of a network
    that restores images only the encoder is taken: its decoder has learnt to make intensities, which holds labels up.

    Args:
        network: To be trained; changed in place.
        task: Of the new training.
        plan: Of the new training; `network` was built from it.
        source: The model to begin with.

    Raises:
        ModelError: If no layer fits at all.
    """
    own_inputs, their_inputs = list_inputs(task, plan), list_inputs(source.task, source.plan)
    if source.pretraining is not None and source.pretraining.task is None and len(task.channels) == 1:
        their_inputs = own_inputs[:1]  # a modality alone has no name for its channel
    own_outputs, their_outputs = list_outputs(task), list_outputs(source.task)
    channels = _match(own_inputs, their_inputs)
    outputs = _match(own_outputs, their_outputs)
    if source.pretraining is not None:  # its outputs are intensities
        outputs = NameMatch(kept=(), fresh=own_outputs, left_behind=())
    elif task.has_regions != source.task.has_regions:  # logits of a softmax and of a sigmoid mean different things
        outputs = NameMatch(kept=(), fresh=own_outputs, left_behind=their_outputs)
    copier = _Copier(
        own=network.state_dict(),
        theirs=source.network.state_dict(),
        inputs=_pair(own_inputs, their_inputs, channels.kept),
        outputs=_pair(own_outputs, their_outputs, outputs.kept),
        input_axes=_find_axes(plan.network, "in_channels"),
        output_axes=_find_axes(plan.network, "out_channels"),
    )
    copied = copier.copy_all()
    if source.pretraining is not None:
        copied = {name: tensor for name, tensor in copied.items() if name.startswith(_ENCODER)}
    if not copied:
        msg = (
            f"Nothing of {source.folder} fits: it holds a {_describe_network(source.plan.network)}, the new network is a "
            f"{_describe_network(plan.network)}. Choose the same configuration, or train without --from."
        )
        raise ModelError(msg)
    network.load_state_dict(copied, strict=False)
    return TransferReport(
        source=source.folder.name,
        loaded=tuple(name for name in copied if name not in copier.in_part),
        in_part=tuple(name for name in copied if name in copier.in_part),
        fresh=tuple(name for name in network.state_dict() if name not in copied),
        channels=channels,
        outputs=outputs,
    )


def adapt_plan(plan: Plan, task: Task, source: Model) -> Plan:
    """The plan with the voxels, the network and the intensities of the source, so that most of its weights fit.

    Patch and batch follow the new plan's cost: the patch of the source is made smaller where it would be dearer. Where
    modality or configuration differ, the plan stays its own. What was done is in ``reasons["fine_tuning"]``.

    Args:
        plan: Made for the new data.
        task: Of the new training.
        source: The model to begin with.
    """
    theirs = source.plan
    for what, own, other in (
        ("modality", plan.modality, theirs.modality),
        ("configuration", plan.configuration, theirs.configuration),
    ):
        if own != other:
            reason = f"own plan, because the {what} of {source.folder.name} is {other}, not {own}"
            return plan.model_copy(update={"reasons": plan.reasons | {"fine_tuning": reason}})
    median_shape = _to_shape(
        max(1, round(n * mm / new)) for n, mm, new in zip(plan.median_shape, plan.spacing, theirs.spacing, strict=True)
    )
    network = theirs.network.model_copy(
        update={"in_channels": plan.network.in_channels, "out_channels": plan.network.out_channels}
    )
    patch_size, batch_size = _fit_patch(plan, theirs, median_shape)
    rules = dict(zip(source.task.channels, theirs.normalization, strict=True))
    taken_over = f"that of {source.folder.name}"
    reasons = plan.reasons | dict.fromkeys(("spacing", "network", "normalization", "patch_size"), taken_over)
    reasons["fine_tuning"] = f"spacing, network and intensities of {source.folder.name}, so that its weights fit"
    reasons["batch_size"] = "as many patches as keep an iteration as cheap as planned, at least 2"
    if "budget" in plan.reasons:
        reasons["budget"] = f"of the plan that was made for the new data, not of this one: {plan.reasons['budget']}"
    if patch_size != theirs.patch_size:
        reasons["patch_size"] = f"{taken_over}, made smaller to keep an iteration as cheap as planned"
    return plan.model_copy(
        update={
            "spacing": theirs.spacing,
            "median_shape": median_shape,
            "patch_size": patch_size,
            "batch_size": batch_size,
            "normalization": tuple(
                rules.get(name, own) for name, own in zip(task.channels, plan.normalization, strict=True)
            ),
            "num_neighbour_slices": plan.num_neighbour_slices,
            "network": network,
            "reasons": reasons,
        }
    )


def list_inputs(task: Task, plan: Plan) -> tuple[str, ...]:
    """A name for each input of a network: the channels, in 2.5D each with its slices, then the labels that a cascade was given."""
    channels = name_slices(task.channels, plan.num_neighbour_slices)
    return (*channels, *(f"previous {name}" for name in list(task.labels)[: plan.num_previous_labels]))


def list_outputs(task: Task) -> tuple[str, ...]:
    """A name for each output of a network: the labels, after the background where they exclude each other."""
    return tuple(task.labels) if task.has_regions else ("background", *task.labels)


class _Copier:
    """Finds for each tensor of a network what of another network's goes into it."""

    def __init__(
        self,
        *,
        own: Mapping[str, Tensor],
        theirs: Mapping[str, Tensor],
        inputs: _Pairs,
        outputs: _Pairs,
        input_axes: Mapping[str, int],
        output_axes: Mapping[str, int],
    ) -> None:
        self.own = own
        self.theirs = theirs
        self.inputs = inputs
        self.outputs = outputs
        self.input_axes = input_axes
        self.output_axes = output_axes
        self.in_part: list[str] = []

    def copy_all(self) -> dict[str, Tensor]:
        """New content of every tensor that takes something over."""
        copied: dict[str, Tensor] = {}
        fits = False
        for name, tensor in self.own.items():
            # Bias, scale and shift follow the convolution before them, without which they mean nothing.
            if tensor.ndim > 1:
                fits = False
            elif not fits:
                continue
            content = self._copy(name, tensor)
            if content is not None:
                copied[name] = content
                fits = True
        return copied

    def _copy(self, name: str, tensor: Tensor) -> Tensor | None:
        theirs = self.theirs.get(name)
        if theirs is None or theirs.ndim != tensor.ndim:
            return None
        if name in self.input_axes:
            return self._copy_along(name, self.input_axes[name], tensor, theirs, self.inputs)
        if name in self.output_axes:
            return self._copy_along(name, self.output_axes[name], tensor, theirs, self.outputs)
        return theirs.clone() if theirs.shape == tensor.shape else None

    def _copy_along(self, name: str, axis: int, tensor: Tensor, theirs: Tensor, pairs: _Pairs) -> Tensor | None:
        shapes = [list(each.shape) for each in (tensor, theirs)]
        for shape in shapes:
            shape[axis] = 0
        if shapes[0] != shapes[1] or not pairs:
            return None
        own_index, their_index = torch.tensor(pairs).T
        if len(pairs) < tensor.shape[axis]:
            self.in_part.append(name)
        return tensor.cpu().index_copy(axis, own_index, theirs.index_select(axis, their_index))


_Pairs = Sequence[tuple[int, int]]
"""Index in the new network, index in the source."""


def _match(own: Sequence[str], theirs: Sequence[str]) -> NameMatch:
    return NameMatch(
        kept=tuple(name for name in own if name in theirs),
        fresh=tuple(name for name in own if name not in theirs),
        left_behind=tuple(name for name in theirs if name not in own),
    )


def _pair(own: Sequence[str], theirs: Sequence[str], names: Sequence[str]) -> _Pairs:
    return [(own.index(name), theirs.index(name)) for name in names]


def _find_axes(plan: NetworkPlan, field: str) -> dict[str, int]:
    """Tensors whose shape depends on the number of inputs (or outputs), and the axis on which it does.

    Asked of the network itself rather than of its names, so that every architecture is understood.
    """
    shapes = []
    for more in (0, 1):
        with torch.device("meta"):
            wider = build_network(plan.model_copy(update={field: getattr(plan, field) + more}))
        shapes.append({name: tensor.shape for name, tensor in wider.state_dict().items()})
    return {
        name: next(axis for axis, (n, m) in enumerate(zip(shape, shapes[1][name], strict=True)) if n != m)
        for name, shape in shapes[0].items()
        if shape != shapes[1][name]
    }


def _fit_patch(plan: Plan, theirs: Plan, median_shape: Shape3) -> tuple[Shape3, int]:
    """The source's patch, smaller where two of it would cost more than an iteration of the new plan."""
    widening = max(1.0, theirs.network.features[0] / plan.network.features[0])
    voxels = math.prod(plan.patch_size) * plan.batch_size / widening
    divisors = [math.prod(stride[axis] for stride in theirs.network.strides) for axis in range(3)]
    patch = list(theirs.patch_size)
    if "image_size" in theirs.network.options:  # a network that knows one size of patch only
        return theirs.patch_size, max(2, int(voxels // math.prod(patch)))
    smallest = [min(n, max(2 * divisor, _MIN_PATCH_EDGE)) for n, divisor in zip(patch, divisors, strict=True)]
    while 2 * math.prod(patch) > voxels:
        shrinkable = [axis for axis in range(3) if patch[axis] - divisors[axis] >= smallest[axis]]
        if not shrinkable:
            break
        widest = max(shrinkable, key=lambda axis: patch[axis] / median_shape[axis])
        patch[widest] -= divisors[widest]
    return _to_shape(patch), max(2, int(voxels // math.prod(patch)))


def _to_shape(values: Iterable[int]) -> Shape3:
    i, j, k = values
    return i, j, k


def _describe_network(plan: NetworkPlan) -> str:
    return f"{plan.spatial_dims}D {plan.architecture} of {len(plan.features)} stages from {plan.features[0]} features"


def _name_layers(tensors: Sequence[str]) -> list[str]:
    """``encoder.4`` for all that lies in it, each once."""
    return list(dict.fromkeys(".".join(name.removeprefix("network.").split(".")[:2]) for name in tensors))
