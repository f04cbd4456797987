"""Learning from scans without labels: hidden parts of images are restored (`pretrain`)."""

from medunet.training.pretraining.run import PretrainingResult, pretrain
from medunet.training.pretraining.settings import PretrainingSettings

__all__ = ["PretrainingResult", "PretrainingSettings", "pretrain"]
