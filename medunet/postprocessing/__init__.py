"""What is done to a mask after the network, when it helps, and what a mask is expected to look like.

Both are learnt from labelled cases after training, and travel in the model folder.
"""

from medunet.models.postprocessing import Postprocessing, TriedStep
from medunet.models.quality import QualityRanges
from medunet.postprocessing.choose import choose_postprocessing
from medunet.postprocessing.keep_largest import apply_postprocessing
from medunet.postprocessing.quality import CaseFacts, compute_quality_ranges, measure_case

__all__ = [
    "CaseFacts",
    "Postprocessing",
    "QualityRanges",
    "TriedStep",
    "apply_postprocessing",
    "choose_postprocessing",
    "compute_quality_ranges",
    "measure_case",
]
