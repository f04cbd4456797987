"""Which of several processes this one is, by what started it.

torchrun and its like set ``RANK`` and ``WORLD_SIZE``, SLURM's ``srun`` sets ``SLURM_PROCID``; ``medunet train --devices N``
starts the others itself (see `medunet.training.launch`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from medunet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which of several processes this is.

    Attributes:
        rank: Number of the process, from 0; process 0 writes.
        local_rank: Number on its machine, from 0; it takes the GPU of that number.
        size: Processes in all.
        address: Where process 0 listens.
        port: On which it listens.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    address: str = "127.0.0.1"
    port: int = 0


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The place that torchrun or srun gave to this process; None where neither started it.

    Raises:
        InputError: If the variables do not fit together.

    Example:
        >>> find_place({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
        Place(rank=1, local_rank=1, size=2, address='10.0.0.1', port=29500)
    """
    try:
        if all(name in environment for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
            return Place(
                rank=int(environment["RANK"]),
                local_rank=int(environment.get("LOCAL_RANK", environment["RANK"])),
                size=int(environment["WORLD_SIZE"]),
                address=environment["MASTER_ADDR"],
                port=int(environment["MASTER_PORT"]),
            )
        # Not SLURM_NTASKS, which sbatch sets too: in a batch script without srun there is one process, and no other comes.
        if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            return _find_slurm_place(environment)
    except (KeyError, ValueError) as error:
        msg = f"The variables of torchrun or SLURM in the environment do not fit together ({error}); start it anew."
        raise InputError(msg) from error
    return None


def is_first_process() -> bool:
    """Whether this process is the one that reports, by what torchrun or srun told it."""
    place = find_place(os.environ)
    return place is None or place.rank == 0


def _find_slurm_place(environment: Mapping[str, str]) -> Place:
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    # Every process must come to the same port without asking: so it follows from the number of the job and of the step.
    job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
    port = 15000 + (job * 10 + step) % 15000
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        size=int(environment["SLURM_STEP_NUM_TASKS"]),
        address=environment.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes),
        port=int(environment.get("MASTER_PORT", port)),
    )
