"""`Engine`: the network, its optimiser and one step of learning, without any file, log or clock.

Nothing in a step waits for a GPU: losses stay there as tensors, and an update whose gradient is not finite is skipped there,
by the fused optimiser itself; whoever drives the engine asks for the fault when it suits.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins import Precision as PrecisionPlugin
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn

from medunet.device import Precision
from medunet.networks import PatchNetwork, build_network
from medunet.planning import Plan
from medunet.planning.plan import OptimizerPlan
from medunet.preprocessing import find_neighbour_slices
from medunet.tasks import Task
from medunet.training.averaging import build_average, update_average
from medunet.training.compilation import SMALL_BATCH_VOXELS, Forward, try_compile
from medunet.training.distributed import World, WorldEnvironment
from medunet.training.losses import Loss, LossName
from medunet.training.muon import Muon
from medunet.training.objective import Objective, build_segmenting
from medunet.training.sampling import Batch

# Fabric announces its precision each time it is built; the model's record says it once.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

MAX_GRADIENT_NORM = 12.0
_NO_FAULT = 2**62
_NUM_TIMED_STEPS = 4
_TIMING_SECONDS = 3.0


class Engine:
    """Network, optimiser and arithmetic of one training.

    Args:
        plan: Network, patch, batch and optimiser.
        task: Labels.
        device: That computes.
        precision: Of the network's arithmetic; weights, losses and updates are float32.
        seed: Of the first weights.
        loss: Its name.
        objective: What is learnt, where it is not to segment; None takes the loss of that name.
        world: The processes that learn together; gradients are averaged over them.
        will_compile: Whether `compile` will be called.

    Attributes:
        objective: What is learnt.
        network: That learns, on the device; never compiled, so that its weights keep their names.
        optimizer: Of its weights.
        average: Running mean of the weights; None unless the plan asks for one.
        is_compiled: Whether steps run compiled by now.
    """

    def __init__(
        self,
        plan: Plan,
        task: Task,
        *,
        device: torch.device,
        precision: Precision,
        seed: int = 0,
        loss: LossName = "dice-ce",
        objective: Objective | None = None,
        world: World | None = None,
        will_compile: bool = False,
    ) -> None:
        self.plan = plan
        self.device = device
        with torch.random.fork_rng(devices=[]):  # the caller's generator is left as it was
            torch.manual_seed(seed)
            self.network: PatchNetwork = build_network(plan.network)
        if device.type == "cuda" or not will_compile:  # on the CPU the compiler arranges memory better by itself
            _use_channels_last(self.network, plan.network.spatial_dims)
        self.optimizer = build_optimizer(self.network, plan.optimizer, device)
        self.objective: Objective = objective or build_segmenting(loss, task, device, find_neighbour_slices(plan))
        self._precision = _build_precision(precision, device)
        self._fabric = _build_fabric(device, self._precision, world or World())
        self._scales = _Scales(self.network)
        self._learner, self._updater = self._fabric.setup(self._scales, self.optimizer)
        self._begin_momentum()
        self.average: nn.Module | None = None
        self.reset_average()
        self._first_fault = torch.tensor(_NO_FAULT, device=device)
        self.is_compiled = False

    @property
    def kept_network(self) -> nn.Module:
        """The network whose weights are validated and kept: the running mean, where there is one."""
        return self.network if self.average is None else self.average

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What keeps gradients in the range of float16; None for other precisions."""
        return self._precision.scaler if isinstance(self._precision, MixedPrecision) else None

    def compile(self) -> None:
        """Compile forward and backward, which takes a minute; where that fails, say so and go on as before."""
        plain = self._scales.compute
        num_voxels = self.plan.batch_size * math.prod(self.plan.patch_size)
        has_graphs = self.device.type == "cuda" and num_voxels <= SMALL_BATCH_VOXELS
        self._scales.compute = try_compile(plain, self._try_out, has_graphs=has_graphs)
        self.is_compiled = self._scales.compute is not plain

    def reset_average(self) -> None:
        """Begin the running mean at the present weights, after they came from somewhere else."""
        if self.plan.optimizer.averaging is not None:
            self.average = build_average(self.network)

    def step(self, batch: Batch, learning_rate: float) -> Loss:
        """Change the weights once.

        A loss or gradient that is not finite changes nothing; `find_fault` tells.

        Args:
            batch: Its patches may be on the CPU; pinned, they are copied while the GPU computes.
            learning_rate: Of this step.

        Returns:
            The loss before the step, on the device, detached.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        batch = _move_batch(batch, self.device)
        shown = self.objective.show(batch)
        self.optimizer.zero_grad(set_to_none=True)
        answers = self._learner(shown)
        num_scales = len(answers) - self.network.num_auxiliary
        loss = self.objective.compute_loss(answers[:num_scales], batch)
        if self.network.num_auxiliary:
            more = self.network.compute_auxiliary_loss(answers[num_scales:], batch.codes)
            loss = replace(loss, total=loss.total + more)
        self._fabric.backward(_spread_fault(loss.total))
        self._update(loss, batch.iteration)
        if self.average is not None:
            assert self.plan.optimizer.averaging is not None
            update_average(self.average, self.network, decay=self.plan.optimizer.averaging, num_updates=batch.iteration)
        return replace(loss, total=loss.total.detach())

    def find_fault(self) -> int | None:
        """The first iteration whose loss or gradient was not finite, since the engine was built; waits for a GPU."""
        fault = int(self._first_fault)
        return None if fault == _NO_FAULT else fault

    def align_moments(self) -> None:
        """Lay the optimiser's moments out in memory as the weights are, after they were loaded from a file.

        A fused optimiser walks through weight, gradient and moments side by side, whatever their strides say.
        """
        for parameter, moments in self.optimizer.state.items():
            for name, moment in moments.items():
                if moment is not None and moment.shape == parameter.shape and moment.stride() != parameter.stride():
                    moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)

    def _begin_momentum(self) -> None:
        """Begin at zero, which gives the same updates as PyTorch's own beginning at the first gradient.

        Its fused SGD makes the momentum of uninitialised memory, which stays so where the first update is skipped, as with
        float16 it often is; the next update would follow it.
        """
        if self.plan.optimizer.name == "sgd" and self.plan.optimizer.momentum > 0:
            for parameter in self.network.parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def _update(self, loss: Loss, iteration: int) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        if self.scaler is not None:
            # float16 overflows now and then: the scaler skips that update and takes a smaller scale for the next.
            self._note_fault(~torch.isfinite(loss.total.detach()), iteration)
            self._updater.step()
            return
        is_fault = ~torch.isfinite(norm)
        self._note_fault(is_fault, iteration)
        if self.optimizer.defaults["fused"]:
            # What `GradScaler` hands to a fused optimiser, which then leaves weights and moments as they are.
            self.optimizer.found_inf = is_fault.float()  # type: ignore[attr-defined]
            self._updater.step()
        elif not bool(is_fault):
            self._updater.step()

    def _note_fault(self, is_fault: Tensor, iteration: int) -> None:
        found = torch.where(is_fault, iteration, _NO_FAULT)
        self._first_fault = torch.minimum(self._first_fault, found)

    def _try_out(self, compute: Forward) -> None:
        """Forward and backward as in a step, on zeros, in this process alone."""
        shape = (self.plan.batch_size, self.plan.network.in_channels, *self.plan.patch_size)
        image = self._precision.convert_input(torch.zeros(shape, device=self.device))
        with self._precision.forward_context():
            scales = compute(image)
        torch.stack([logits.float().sum() for logits in scales]).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)


def measure_step_seconds(plan: Plan, task: Task, device: torch.device, precision: Precision) -> float:
    """Seconds that one training step of a plan takes on this device, on random numbers, uncompiled.

    The fastest of a few steps, or of one where steps are long, after one that warms up: whatever else runs on the machine
    only ever makes a step slower.
    """
    engine = Engine(plan, task, device=device, precision=precision)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        iteration=0,
        case_ids=("random",) * plan.batch_size,
        image=torch.randn(_shape_images(plan), generator=generator).to(device),
        codes=torch.zeros((plan.batch_size, *plan.patch_size), dtype=torch.uint8, device=device),
        annotated=None,
        changes=(),
    )
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < _NUM_TIMED_STEPS and sum(seconds) < _TIMING_SECONDS):
        began = time.perf_counter()
        engine.step(batch, plan.optimizer.learning_rate)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _shape_images(plan: Plan) -> list[int]:
    """Of the images of a batch: with neighbour slices along their axis, with what a cascade sees as channels."""
    neighbours = find_neighbour_slices(plan)
    if neighbours is None:
        return [plan.batch_size, plan.network.in_channels, *plan.patch_size]
    size = list(plan.patch_size)
    size[neighbours.axis] = len(neighbours.offsets)
    return [plan.batch_size, len(plan.normalization), *size]


def build_optimizer(network: nn.Module, plan: OptimizerPlan, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a plan; where PyTorch has fused ones, they change all weights in one pass.

    Args:
        network: Whose weights are changed, still on the CPU.
        plan: Of the optimiser.
        device: Where the weights will be.
    """
    options: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    if plan.name == "muon":
        # On the CPU, asking whether a step is forbidden costs less than masking large gradients.
        return Muon(
            network.parameters(),
            momentum=plan.momentum,
            max_gflop=plan.max_orthogonal_gflop,
            fused=device.type == "cuda",
            **options,
        )
    options["fused"] = device.type in ("cpu", "cuda")
    if plan.name == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=plan.momentum, nesterov=plan.momentum > 0, **options)
    return torch.optim.AdamW(network.parameters(), eps=1e-7, **options)


class _Scales(nn.Module):
    """`PatchNetwork.forward_scales` as a module of its own, because Fabric and DDP wrap ``forward``.

    Attributes:
        compute: That method, or its compiled form.
    """

    def __init__(self, network: PatchNetwork) -> None:
        super().__init__()
        self.network = network
        self.compute: Forward = network.forward_scales

    def forward(self, patches: Tensor) -> list[Tensor]:
        return self.compute(patches)


def _build_precision(precision: Precision, device: torch.device) -> PrecisionPlugin:
    """Given as objects, because by name Fabric changes float16 on the CPU to bfloat16."""
    return PrecisionPlugin() if precision == "32-true" else MixedPrecision(precision, device.type)


def _build_fabric(device: torch.device, precision: PrecisionPlugin, world: World) -> Fabric:
    strategy: Strategy = SingleDeviceStrategy(device=device, precision=precision)
    if world.size > 1:
        world.connect(device)
        # Fabric looks up this process's device by its number on the machine.
        devices = [torch.device(device.type, device.index or 0) if device.type == "cuda" else device]
        strategy = DDPStrategy(
            parallel_devices=devices * (world.local_rank + 1),
            cluster_environment=WorldEnvironment(world),
            precision=precision,
        )
    fabric = Fabric(accelerator=device.type, strategy=strategy)
    fabric.launch()
    return fabric


def _use_channels_last(network: nn.Module, spatial_dims: int) -> None:
    """Convolutions answer in the memory layout of their weights, so that the whole network follows them."""
    layout = torch.channels_last_3d if spatial_dims == 3 else torch.channels_last
    for parameter in network.parameters():
        # With one voxel or one channel both layouts are the same bytes, and DDP would complain about their strides.
        if parameter.dim() == spatial_dims + 2 and parameter.shape[1] > 1 and math.prod(parameter.shape[2:]) > 1:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _move_batch(batch: Batch, device: torch.device) -> Batch:
    names = ("image", "codes", "annotated", "previous")
    tensors = {name: tensor for name in names if (tensor := getattr(batch, name)) is not None}
    return replace(batch, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def _spread_fault(total: Tensor) -> Tensor:
    """The same number, whose gradient is NaN everywhere if it is not finite.

    So the norm of the gradient shows every fault, in all processes alike, once their gradients are averaged.
    """
    return total * (total.detach() * 0 + 1)
