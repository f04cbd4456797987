"""The network's shape, and how it learns, for a patch and a target."""

from __future__ import annotations

from medunet.planning.patch import Patch
from medunet.planning.plan import NetworkPlan, OptimizerPlan
from medunet.planning.spacing import to_ras
from medunet.planning.stages import BASE_FEATURES, choose_blocks, choose_features
from medunet.planning.targets import Effort, MemoryTarget
from medunet.tasks import Task

MUON = OptimizerPlan(
    name="muon", learning_rate=3e-3, weight_decay=1e-2, momentum=0.95, schedule="cosine", averaging=0.999
)
"""Gets far in few steps, and the mean of the last thousand weights farther; so a budget in time wants it."""
NNUNET_SGD = OptimizerPlan(name="sgd", learning_rate=1e-2, weight_decay=3e-5, momentum=0.99, schedule="poly")
"""nnU-Net's recipe for 250,000 steps (doi:10.1038/s41592-020-01008-z)."""


def choose_network(
    task: Task, patch: Patch, axes: tuple[int, ...], target: MemoryTarget | Effort, *, num_previous_labels: int = 0
) -> tuple[NetworkPlan, str]:
    """As deep as the patch allows, as wide as nnU-Net's or as the effort's.

    Args:
        task: Channels and labels.
        patch: Topology, axes in nnU-Net's order.
        axes: Which of R, A and S the patch's axes are.
        target: Decides architecture and width.
        num_previous_labels: Labels of the network before, which a cascade sees as additional channels.
    """
    architecture = target.rule.architecture if isinstance(target, MemoryTarget) else "unet"
    base = target.features if isinstance(target, Effort) else BASE_FEATURES
    num_stages = len(patch.topology.strides)
    thinner = target.full_resolution_features if isinstance(target, Effort) else None
    features = choose_features(num_stages, len(axes), base=base, full_resolution=thinner)
    blocks = choose_blocks(architecture, num_stages)
    network = NetworkPlan(
        architecture=architecture,
        spatial_dims=2 if len(axes) == 2 else 3,
        in_channels=len(task.channels) + num_previous_labels,
        out_channels=task.num_outputs,
        features=features,
        strides=tuple(to_ras(stride, axes) for stride in patch.topology.strides),
        kernels=tuple(to_ras(kernel, axes) for kernel in patch.topology.kernels),
        encoder_blocks=blocks.encoder,
        decoder_convolutions=blocks.decoder,
        # nnU-Net builds a head at every decoder stage, but the loss of the coarsest has no weight.
        num_scales=max(1, num_stages - 2),
    )
    previous = f"; {num_previous_labels} channels show what the low resolution found" if num_previous_labels else ""
    width = f"{features[0]} channels in the first" + (f", {features[1]} in the second" if thinner else "")
    return network, f"{num_stages} stages, as deep as the patch allows; {width}{previous}"


def choose_optimizer(target: MemoryTarget | Effort) -> tuple[OptimizerPlan, str]:
    """nnU-Net's optimiser with nnU-Net's memory and time, Muon for a budget."""
    if isinstance(target, MemoryTarget):
        return NNUNET_SGD, "nnU-Net's recipe"
    return MUON, "gets far in few steps"


def explain_schedule(optimizer: OptimizerPlan) -> str:
    """What the learning rate does over the budget, and why."""
    if optimizer.schedule == "poly":
        return "poly: nnU-Net's, which falls from the first step to zero at the last"
    return "cosine: rises shortly, then falls to zero just where the budget ends, so that no step of it is wasted"
