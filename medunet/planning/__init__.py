"""From a dataset's fingerprint to a `Plan`: pure functions, JSON out."""

from medunet.planning.body import BODY_MARGIN_MM, compute_body_box, compute_body_mask, compute_crop_box
from medunet.planning.configuration import choose_configuration
from medunet.planning.effort import FittedEffort, fit_effort
from medunet.planning.fingerprint import Fingerprint, compute_fingerprint
from medunet.planning.intensity import ChannelStatistics
from medunet.planning.locator import LOCATOR_LABEL, build_locator_task, plan_locator
from medunet.planning.plan import Configuration, NetworkPlan, Normalization, OptimizerPlan, Plan
from medunet.planning.planner import NEIGHBOUR_SLICES, SLICE_CONFIGURATIONS, add_neighbour_slices, build_plan
from medunet.planning.targets import CPU_EFFORT, GPU_EFFORT, Effort, MemoryTarget, Preset, choose_memory_target
from medunet.planning.topology import Topology, compute_topology

__all__ = [
    "BODY_MARGIN_MM",
    "CPU_EFFORT",
    "GPU_EFFORT",
    "LOCATOR_LABEL",
    "NEIGHBOUR_SLICES",
    "SLICE_CONFIGURATIONS",
    "ChannelStatistics",
    "Configuration",
    "Effort",
    "Fingerprint",
    "FittedEffort",
    "MemoryTarget",
    "NetworkPlan",
    "Normalization",
    "OptimizerPlan",
    "Plan",
    "Preset",
    "Topology",
    "add_neighbour_slices",
    "build_locator_task",
    "build_plan",
    "choose_configuration",
    "choose_memory_target",
    "compute_body_box",
    "compute_body_mask",
    "compute_crop_box",
    "compute_fingerprint",
    "compute_topology",
    "fit_effort",
    "plan_locator",
]
