"""From a scan to a mask: sliding window, the way back to the scan's grid, `Segmenter`."""

from medunet.inference.segmentation import Segmentation
from medunet.inference.segmenter import Segmenter, compute_logits, load, restore_label_map
from medunet.inference.sliding_window import Tiling, apply_sliding_window, plan_tiles

__all__ = [
    "Segmentation",
    "Segmenter",
    "Tiling",
    "apply_sliding_window",
    "compute_logits",
    "load",
    "plan_tiles",
    "restore_label_map",
]
