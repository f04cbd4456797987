"""What is to be segmented (`Task`), and the labelled cases to learn it from (`Dataset`)."""

from medunet.tasks.cases import check_channels, check_label_values, read_case
from medunet.tasks.dataset import Case, Dataset, read_dataset, split_fold
from medunet.tasks.encoding import IGNORE_CODE, compute_membership, encode_labels, list_class_values
from medunet.tasks.recipes import list_tasks, load_task
from medunet.tasks.task import Code, IntensityRule, Task, describe_first_fault, parse_task, suggest

__all__ = [
    "IGNORE_CODE",
    "Case",
    "Code",
    "Dataset",
    "IntensityRule",
    "Task",
    "check_channels",
    "check_label_values",
    "compute_membership",
    "describe_first_fault",
    "encode_labels",
    "list_class_values",
    "list_tasks",
    "load_task",
    "parse_task",
    "read_case",
    "read_dataset",
    "split_fold",
    "suggest",
]
