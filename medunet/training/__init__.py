"""From labelled cases to a model folder."""

from medunet.training.budget import Budget, parse_budget
from medunet.training.fold import TrainingResult
from medunet.training.progress import Observer, Step, TrainingStart
from medunet.training.quantizing import Quantized, quantize
from medunet.training.run import train
from medunet.training.selection import Selection, select
from medunet.training.settings import TrainingSettings

__all__ = [
    "Budget",
    "Observer",
    "Quantized",
    "Selection",
    "Step",
    "TrainingResult",
    "TrainingSettings",
    "TrainingStart",
    "parse_budget",
    "quantize",
    "select",
    "train",
]
