"""From labelled cases to a model folder."""

from medunet.training.budget import Budget, parse_budget
from medunet.training.progress import Observer, Step
from medunet.training.run import TrainingResult, TrainingSettings, train

__all__ = ["Budget", "Observer", "Step", "TrainingResult", "TrainingSettings", "parse_budget", "train"]
