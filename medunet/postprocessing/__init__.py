"""What is done to a mask after the network, when it helps, and what a mask is expected to look like.

Both are learnt from labelled cases after training, and travel in the model folder.
"""

from medunet.models.postprocessing import Postprocessing, TriedStep
from medunet.models.quality import DiceCalibration, QualityRanges
from medunet.postprocessing.agreement import (
    AgreementCounter,
    AgreementCounts,
    compute_agreement,
    decide,
    join_agreement,
)
from medunet.postprocessing.calibration import (
    PredictedDice,
    fit_dice_calibration,
    is_predicted_poor,
    predict_dice,
)
from medunet.postprocessing.choose import choose_postprocessing
from medunet.postprocessing.flags import Flag, find_flags, judge_case
from medunet.postprocessing.keep_largest import apply_postprocessing
from medunet.postprocessing.objects import ObjectFacts, Objects, flood, separate_objects
from medunet.postprocessing.quality import CaseFacts, compute_quality_ranges, measure_case
from medunet.postprocessing.volumes import LabelVolume, compute_label_volumes

__all__ = [
    "AgreementCounter",
    "AgreementCounts",
    "CaseFacts",
    "DiceCalibration",
    "Flag",
    "LabelVolume",
    "ObjectFacts",
    "Objects",
    "Postprocessing",
    "PredictedDice",
    "QualityRanges",
    "TriedStep",
    "apply_postprocessing",
    "choose_postprocessing",
    "compute_agreement",
    "compute_label_volumes",
    "compute_quality_ranges",
    "decide",
    "find_flags",
    "fit_dice_calibration",
    "flood",
    "is_predicted_poor",
    "join_agreement",
    "judge_case",
    "measure_case",
    "predict_dice",
    "separate_objects",
]
