"""What is done to a mask after the network, when it helps, and what a mask is expected to look like.

Both are learnt from labelled cases after training, and travel in the model folder.
"""

from medunet.models.postprocessing import LabelStep, Postprocessing, TriedStep
from medunet.models.quality import DiceCalibration, QualityRanges
from medunet.postprocessing.agreement import (
    AgreementCounter,
    AgreementCounts,
    compute_agreement,
    decide,
    join_agreement,
)
from medunet.postprocessing.apply import PostprocessedLabels, apply_postprocessing, postprocess_labels
from medunet.postprocessing.apply_steps import StepEffect, apply_steps
from medunet.postprocessing.calibration import (
    PredictedDice,
    fit_dice_calibration,
    is_predicted_poor,
    predict_dice,
)
from medunet.postprocessing.choose import choose_postprocessing
from medunet.postprocessing.choose_steps import choose_steps
from medunet.postprocessing.crf_settings import DenseCrf
from medunet.postprocessing.flags import Flag, find_flags, judge_case
from medunet.postprocessing.image_steps import ImageEffect, apply_image_step
from medunet.postprocessing.objects import ObjectFacts, Objects, flood, separate_objects
from medunet.postprocessing.quality import CaseFacts, compute_quality_ranges, measure_case
from medunet.postprocessing.run_steps import Postprocessed, postprocess
from medunet.postprocessing.supervoxels import Supervoxels, compute_supervoxels
from medunet.postprocessing.volumes import LabelVolume, compute_label_volumes

__all__ = [
    "AgreementCounter",
    "AgreementCounts",
    "CaseFacts",
    "DenseCrf",
    "DiceCalibration",
    "Flag",
    "ImageEffect",
    "LabelStep",
    "LabelVolume",
    "ObjectFacts",
    "Objects",
    "Postprocessed",
    "PostprocessedLabels",
    "Postprocessing",
    "PredictedDice",
    "QualityRanges",
    "StepEffect",
    "Supervoxels",
    "TriedStep",
    "apply_image_step",
    "apply_postprocessing",
    "apply_steps",
    "choose_postprocessing",
    "choose_steps",
    "compute_agreement",
    "compute_label_volumes",
    "compute_quality_ranges",
    "compute_supervoxels",
    "decide",
    "find_flags",
    "fit_dice_calibration",
    "flood",
    "is_predicted_poor",
    "join_agreement",
    "judge_case",
    "measure_case",
    "postprocess",
    "postprocess_labels",
    "predict_dice",
    "separate_objects",
]
