"""From a scan to a mask: sliding window, ensembles and cascades, the way back to the scan's grid, `Segmenter`."""

from medunet.inference.cascade import append_previous_labels
from medunet.inference.logits import compute_logits
from medunet.inference.prediction import Prediction, merge_predictions
from medunet.inference.predictor import Predictor
from medunet.inference.restoring import restore_label_map, restore_predictions
from medunet.inference.segmentation import Segmentation
from medunet.inference.segmenter import Segmenter, load
from medunet.inference.sliding_window import Tiling, apply_sliding_window, plan_tiles
from medunet.inference.uncertainty import (
    compute_disagreement,
    compute_entropy,
    compute_entropy_of_logits,
    compute_region_disagreement,
    compute_region_entropy,
    compute_region_entropy_of_logits,
)

__all__ = [
    "Prediction",
    "Predictor",
    "Segmentation",
    "Segmenter",
    "Tiling",
    "append_previous_labels",
    "apply_sliding_window",
    "compute_disagreement",
    "compute_entropy",
    "compute_entropy_of_logits",
    "compute_logits",
    "compute_region_disagreement",
    "compute_region_entropy",
    "compute_region_entropy_of_logits",
    "load",
    "merge_predictions",
    "plan_tiles",
    "restore_label_map",
    "restore_predictions",
]
