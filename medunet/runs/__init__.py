"""Training runs from outside: listed, compared, locked. Loads no torch, and writes nothing into a run but its lock."""

from medunet.runs.difference import CaseDifference, LabelDifference, RunDifference, compare_runs
from medunet.runs.documents import DocumentDifference
from medunet.runs.listing import DamagedRun, Run, RunList, RunState, list_network_folders, list_runs, read_run

__all__ = [
    "CaseDifference",
    "DamagedRun",
    "DocumentDifference",
    "LabelDifference",
    "Run",
    "RunDifference",
    "RunList",
    "RunState",
    "compare_runs",
    "list_network_folders",
    "list_runs",
    "read_run",
]
