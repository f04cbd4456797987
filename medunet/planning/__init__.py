"""From a dataset's fingerprint to a `Plan`: pure functions, JSON out."""

from medunet.planning.body import compute_body_box, compute_body_mask
from medunet.planning.effort import FittedEffort, fit_effort
from medunet.planning.fingerprint import ChannelStatistics, Fingerprint, compute_fingerprint
from medunet.planning.plan import Configuration, NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.planning.planner import build_plan
from medunet.planning.targets import CPU_EFFORT, GPU_EFFORT, Effort
from medunet.planning.topology import Topology, compute_topology

__all__ = [
    "CPU_EFFORT",
    "GPU_EFFORT",
    "ChannelStatistics",
    "Configuration",
    "Effort",
    "Fingerprint",
    "FittedEffort",
    "NetworkPlan",
    "Normalization",
    "OptimizerPlan",
    "Plan",
    "Topology",
    "build_plan",
    "compute_body_box",
    "compute_body_mask",
    "compute_fingerprint",
    "compute_topology",
    "fit_effort",
]
