"""One of several processes of a distributed training: gradients of a tiny network on its share of the patches.

Run as ``two_processes.py RANK NUM_PROCESSES FOLDER`` by `test_processes.py`; writes ``FOLDER/RANK.pt``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import torch
from made_up_patches import TASKS, make_codes
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from medunet.tasks import IGNORE_CODE, Task
from medunet.training.losses import LossName, SegmentationLoss, build_loss

NUM_PATCHES = 4


def build_losses(task: Task) -> dict[str, SegmentationLoss]:
    cpu = torch.device("cpu")
    return {name: build_loss(name, task, cpu) for name in get_args(LossName)}


def compute_gradients(rank: int, num_processes: int) -> dict[str, Tensor]:
    """Gradient, loss and soft Dice of this process' patches, as one vector per loss."""
    results = {}
    share = slice(rank * NUM_PATCHES // num_processes, (rank + 1) * NUM_PATCHES // num_processes)
    for kind, task in TASKS.items():
        codes = make_codes(task, shape=(NUM_PATCHES, 3, 4, 5))
        codes[0, 1:] = IGNORE_CODE  # the processes have unlike numbers of voxels that count,
        codes[:2][codes[:2] == 2] = 0  # of labels,
        annotated = torch.ones(NUM_PATCHES, task.num_outputs, dtype=torch.bool)
        annotated[:2, 2] = False  # and of annotated outputs
        images = torch.randn(NUM_PATCHES, 2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
        for name, loss in build_losses(task).items():
            with torch.random.fork_rng():
                torch.manual_seed(5)
                network: nn.Module = nn.Conv3d(2, task.num_outputs, 1)
            if num_processes > 1:
                network = DistributedDataParallel(network)
            result = loss([network(images[share])], codes[share], annotated[share])
            result.total.backward()
            gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
            results[f"{kind} {name}"] = torch.cat([*gradients, result.total.detach()[None], result.soft_dice[None]])
    return results


if __name__ == "__main__":
    rank, num_processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    address = (folder / "meeting-point").as_uri()
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=num_processes)
    torch.save(compute_gradients(rank, num_processes), folder / f"{rank}.pt")
    distributed.destroy_process_group()
