"""From a scan to a mask: sliding window, ensembles and cascades, the way back to the scan's grid, `Segmenter`."""

from medunet.inference.boundary import find_winners_between
from medunet.inference.cascade import append_previous_labels
from medunet.inference.logits import collect_logits, compute_logits, stream_logits
from medunet.inference.prediction import Prediction, merge_predictions
from medunet.inference.predictor import Predictor, build_tile_networks, paint_labels
from medunet.inference.restoring import LabelPainter, restore_label_map, restore_predictions
from medunet.inference.segmentation import Segmentation
from medunet.inference.segmenter import ScanFailure, Segmenter, load
from medunet.inference.settings import InferenceSettings
from medunet.inference.skipping import find_needed_tiles
from medunet.inference.sliding_window import Slab, apply_sliding_window, stream_sliding_window
from medunet.inference.tile_networks import TileNetworks, list_flips
from medunet.inference.tiling import Tiling, plan_tiles

__all__ = [
    "InferenceSettings",
    "LabelPainter",
    "Prediction",
    "Predictor",
    "ScanFailure",
    "Segmentation",
    "Segmenter",
    "Slab",
    "TileNetworks",
    "Tiling",
    "append_previous_labels",
    "apply_sliding_window",
    "build_tile_networks",
    "collect_logits",
    "compute_logits",
    "find_needed_tiles",
    "find_winners_between",
    "list_flips",
    "load",
    "merge_predictions",
    "paint_labels",
    "plan_tiles",
    "restore_label_map",
    "restore_predictions",
    "stream_logits",
    "stream_sliding_window",
]
