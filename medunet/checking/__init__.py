"""The dataset doctor: what is wrong or odd about labelled cases, said before hours of training."""

from medunet.checking.check import check_dataset
from medunet.checking.report import (
    SEVERITIES,
    CaseFacts,
    ChannelFacts,
    DatasetReport,
    Finding,
    GridFacts,
    LabelFacts,
    Severity,
    Topic,
)

__all__ = [
    "SEVERITIES",
    "CaseFacts",
    "ChannelFacts",
    "DatasetReport",
    "Finding",
    "GridFacts",
    "LabelFacts",
    "Severity",
    "Topic",
    "check_dataset",
]
