"""What is to be segmented (`Task`), and the labelled cases to learn it from (`Dataset`)."""

from medunet.io.structures import Code
from medunet.tasks.case import Case
from medunet.tasks.cases import (
    check_channels,
    check_label_values,
    list_case_files,
    read_case,
    read_case_scan,
)
from medunet.tasks.dataset import Dataset, read_dataset
from medunet.tasks.encoding import (
    IGNORE_CODE,
    compute_membership,
    compute_mirrored_outputs,
    encode_labels,
    list_class_values,
)
from medunet.tasks.folds import Splits, count_folds, read_splits, split_fold
from medunet.tasks.partial_labels import check_annotated, check_annotated_values
from medunet.tasks.recipes import list_tasks, load_task
from medunet.tasks.structure_names import check_mapping, match_structure, parse_mapping, structures_to_labels
from medunet.tasks.task import IntensityRule, Task, describe_first_fault, parse_task, suggest
from medunet.tasks.unlabelled import ImageSet, ScanFolder, list_scans

__all__ = [
    "IGNORE_CODE",
    "Case",
    "Code",
    "Dataset",
    "ImageSet",
    "IntensityRule",
    "ScanFolder",
    "Splits",
    "Task",
    "check_annotated",
    "check_annotated_values",
    "check_channels",
    "check_label_values",
    "check_mapping",
    "compute_membership",
    "compute_mirrored_outputs",
    "count_folds",
    "describe_first_fault",
    "encode_labels",
    "list_case_files",
    "list_class_values",
    "list_scans",
    "list_tasks",
    "load_task",
    "match_structure",
    "parse_mapping",
    "parse_task",
    "read_case",
    "read_case_scan",
    "read_dataset",
    "read_splits",
    "split_fold",
    "structures_to_labels",
    "suggest",
]
