"""A training step as one writes it in plain PyTorch: what a tool's own step is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medunet.device import Precision
from medunet.networks import PatchNetwork
from medunet.planning import Plan
from medunet.training.sampling import Batch

_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def build_plain_step(
    network: PatchNetwork,
    plan: Plan,
    batch: Batch,
    device: torch.device,
    precision: Precision,
    *,
    compiles: bool = False,
) -> Callable[[], Tensor]:
    """A function that trains a network once more on the same batch and gives the loss before, on the device."""
    network.to(device).train()
    image, targets = batch.image.to(device), _build_targets(batch.codes.to(device), plan)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    forward = torch.compile(network.forward_scales, dynamic=False) if compiles else network.forward_scales

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=_DTYPES.get(precision), enabled=precision in _DTYPES):
            scales = forward(image)
        loss = compute_plain_loss(scales, targets)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def compute_plain_loss(scales: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Cross-entropy less soft Dice of the foreground over the batch, scales weighted 1, 1/2, 1/4 and so on.

    Args:
        scales: Logits ``(B, classes, I, J, K)``, finest first.
        targets: Classes ``(B, I, J, K)`` int64, finest first.
    """
    total = torch.zeros((), device=targets[0].device)
    for number, (logits, target) in enumerate(zip(scales, targets, strict=True)):
        logits = logits.float()
        reference = F.one_hot(target, logits.shape[1]).movedim(-1, 1)
        probabilities = logits.softmax(1)
        axes = (0, 2, 3, 4)
        overlap = 2 * (probabilities * reference).sum(axes)
        dice = (overlap + 1e-5) / (probabilities.sum(axes) + reference.sum(axes) + 1e-5)
        total = total + (F.cross_entropy(logits, target) - dice[1:].mean()) / 2**number
    mean: Tensor = total / sum(1 / 2**number for number in range(len(scales)))
    return mean


def _build_targets(codes: Tensor, plan: Plan) -> list[Tensor]:
    """The label maps of all supervised scales; the batch stays the same, so they are made once."""
    targets, size = [codes.long()], list(plan.patch_size)
    for strides in plan.network.strides[1 : plan.network.num_scales]:
        size = [edge // stride for edge, stride in zip(size, strides, strict=True)]
        targets.append(F.interpolate(codes[:, None], size=size, mode="nearest-exact")[:, 0].long())
    return targets
