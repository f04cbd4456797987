"""What a network costs: parameters and arithmetic, counted without doing any."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from medunet.networks.build import PatchNetwork


def count_parameters(network: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_gflop(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> float:
    """10^9 multiplications and additions of convolutions and matrix products in one pass over one patch.

    Normalisations, activations, poolings and interpolations are not counted.

    Args:
        network: Built with ``torch.device("meta")``, so that nothing is computed or allocated.
        in_channels: Input channels.
        patch_size: As the network takes it.
    """
    counter = FlopCounterMode(display=False)
    _pass_once(network, (1, in_channels, *patch_size), counter)
    return float(counter.get_total_flops()) / 1e9


def count_orthogonal_gflop(shape: Sequence[int]) -> float:
    """10^9 multiplications and additions with which Muon makes the step of some weights orthogonal (`medunet.training.muon`).

    Two products with the matrix of the first axis by all others, and twenty of squares of the shorter side.
    """
    short, long = sorted((shape[0], math.prod(shape[1:])))
    return (4 * short**2 * long + 40 * short**3) / 1e9


def count_pass_bytes(network: nn.Module, in_channels: int, patch_size: Sequence[int], batch_size: int = 1) -> int:
    """Most bytes that lie in memory at one time of a pass without gradients: the patches, what is kept for skip connections, and
    the copies that a convolution makes of its input and its output, whose order oneDNN and cuDNN change for themselves.

    Weights are not counted; numbers are float32.

    Args:
        network: Built with ``torch.device("meta")``, so that nothing is computed or allocated.
        in_channels: Input channels.
        patch_size: As the network takes it.
        batch_size: Patches at once.
    """
    counter = _LiveBytes()
    _pass_once(network, (batch_size, in_channels, *patch_size), counter)
    return counter.peak


def count_saved_bytes(network: PatchNetwork, in_channels: int, patch_size: Sequence[int], batch_size: int = 1) -> int:
    """Bytes that a forward pass keeps for the way back, and the logits of all scales: most of what a training step takes.

    Weights are not counted; numbers are float32.

    Args:
        network: Built with ``torch.device("meta")``, so that nothing is computed or allocated.
        in_channels: Input channels.
        patch_size: As the network takes it.
        batch_size: Patches at once.
    """
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no other one gets the same address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network.forward_scales(torch.empty((batch_size, in_channels, *patch_size), device="meta"))
    return sum(storage.nbytes() for storage in kept.values()) + sum(scale.nbytes for scale in logits)


def _pass_once(network: nn.Module, shape: Sequence[int], counter: AbstractContextManager[Any]) -> None:
    """A pass without gradients, as in inference, under the eyes of a counter; it sees the patches made, too."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), counter:
        patches = torch.empty(tuple(shape), device="meta")
        network(patches)
    network.train(was_training)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the tensors that are made until nobody holds them any more.

    Attributes:
        peak: Most bytes at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(  # the name that torch calls
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(outputs) if isinstance(tensor, Tensor)]
        for tensor in made:
            self._note(tensor.untyped_storage())
        copies = 0
        if function is torch.ops.aten.convolution.default:
            copies = args[0].nbytes + sum(tensor.nbytes for tensor in made)
        self.peak = max(self.peak, self._live + copies)
        return outputs

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._known:  # a view, or a tensor that was changed in place
            return
        self._known[key] = storage.nbytes()
        self._live += storage.nbytes()
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._live -= self._known.pop(key)
