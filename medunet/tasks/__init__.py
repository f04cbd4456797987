"""What is to be segmented (`Task`), and the labelled cases to learn it from (`Dataset`)."""

from medunet.io.structures import Code
from medunet.tasks.case import Case
from medunet.tasks.cases import (
    check_channels,
    check_label_values,
    list_case_files,
    read_case,
    read_case_scan,
    read_objects,
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
from medunet.tasks.instances import (
    build_target_map,
    check_object_values,
    compute_semantic_map,
    list_object_values,
)
from medunet.tasks.mask_steps import (
    MASK_STEPS,
    Closing,
    FillHoles,
    KeepLargest,
    MaskStep,
    OnePerSide,
    Opening,
    RemoveSmall,
    Smooth,
    StepField,
    build_step,
    check_positive,
    describe_step,
    parse_step,
    split_step,
)
from medunet.tasks.modality import Modality, is_picture
from medunet.tasks.partial_labels import check_annotated, check_annotated_values
from medunet.tasks.recipes import list_tasks, load_task
from medunet.tasks.structure_names import check_mapping, match_structure, parse_mapping, structures_to_labels
from medunet.tasks.suggestion import suggest
from medunet.tasks.task import IntensityRule, Task, describe_first_fault, parse_task
from medunet.tasks.unlabelled import ImageSet, ScanFolder, list_scans

__all__ = [
    "IGNORE_CODE",
    "MASK_STEPS",
    "Case",
    "Closing",
    "Code",
    "Dataset",
    "FillHoles",
    "ImageSet",
    "IntensityRule",
    "KeepLargest",
    "MaskStep",
    "Modality",
    "OnePerSide",
    "Opening",
    "RemoveSmall",
    "ScanFolder",
    "Smooth",
    "Splits",
    "StepField",
    "Task",
    "build_step",
    "build_target_map",
    "check_annotated",
    "check_annotated_values",
    "check_channels",
    "check_label_values",
    "check_mapping",
    "check_object_values",
    "check_positive",
    "compute_membership",
    "compute_mirrored_outputs",
    "compute_semantic_map",
    "count_folds",
    "describe_first_fault",
    "describe_step",
    "encode_labels",
    "is_picture",
    "list_case_files",
    "list_class_values",
    "list_object_values",
    "list_scans",
    "list_tasks",
    "load_task",
    "match_structure",
    "parse_mapping",
    "parse_step",
    "parse_task",
    "read_case",
    "read_case_scan",
    "read_dataset",
    "read_objects",
    "read_splits",
    "split_fold",
    "split_step",
    "structures_to_labels",
    "suggest",
]
