"""Box plots of a metric: a row per label of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medunet.evaluation import METRICS, LabelScore
from medunet.evaluation.metric_summary import rate_badness
from medunet.reporting.box_plot import Box, draw_boxes
from medunet.reporting.page import Picture
from medunet.reporting.palette import get_label_colours

MAX_LABELS = 60
"""In one chart; of more labels the worst are drawn."""
_LOST = ("missed", "invented")


def draw_metric(scores: Sequence[LabelScore], metric: str, labels: Sequence[str]) -> Picture | None:
    """A row per label, a dot per case, a red cross where the structure was missed or invented.

    Args:
        scores: Of all cases.
        metric: Name in `medunet.evaluation.METRICS`.
        labels: All of them in their order, so that each keeps its colour.

    Returns:
        None where no case has this metric.
    """
    colours = get_label_colours(labels)
    boxes = []
    for label in labels:
        found = [
            (value, score.status in _LOST)
            for score in scores
            if score.label == label and (value := getattr(score, metric, None)) is not None
        ]
        if found:
            values, is_lost = zip(*found, strict=True)
            boxes.append(Box(name=label, values=values, is_lost=is_lost, colour=colours[label]))
    shown = _choose_worst(boxes, metric)
    note = f" The {MAX_LABELS} worst of {len(boxes)} labels." if len(shown) < len(boxes) else ""
    rule = METRICS[metric]
    better = {"higher": "more is better", "lower": "less is better"}.get(rule.better, "0 is best")
    ends_at_one = rule.better == "higher"
    limits = (0.0, 1.0) if ends_at_one else None
    return draw_boxes(shown, f"{rule.title} per case ({better})", limits=limits, note=note)


def _choose_worst(boxes: Sequence[Box], metric: str) -> list[Box]:
    """At most `MAX_LABELS`, in the order given."""
    ranked = sorted(boxes, key=lambda box: -rate_badness(METRICS[metric], float(np.mean(box.values))))
    kept = {box.name for box in ranked[:MAX_LABELS]}
    return [box for box in boxes if box.name in kept]
