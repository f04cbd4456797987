"""From labelled cases, or scans without labels, to a model folder."""

from medunet.training.budget import Budget, parse_budget
from medunet.training.fold import TrainingResult
from medunet.training.pretraining import PretrainingResult, PretrainingSettings, pretrain
from medunet.training.progress import Observer, Step, TrainingStart
from medunet.training.quantizing import Quantized, quantize
from medunet.training.run import train
from medunet.training.selection import Selection, select
from medunet.training.settings import TrainingSettings

__all__ = [
    "Budget",
    "Observer",
    "PretrainingResult",
    "PretrainingSettings",
    "Quantized",
    "Selection",
    "Step",
    "TrainingResult",
    "TrainingSettings",
    "TrainingStart",
    "parse_budget",
    "pretrain",
    "quantize",
    "select",
    "train",
]
