"""Counts first, then scores as one-line formulas on them."""

from __future__ import annotations

from perpixel.metrics.bootstrap import bootstrap_intervals
from perpixel.metrics.confusion import confusion_matrix
from perpixel.metrics.per_image import per_image_table
from perpixel.metrics.scores import CLASS_STATISTICS, DEFINITIONS, STATISTICS, Scores, compute_scores

__all__ = [
    "CLASS_STATISTICS",
    "DEFINITIONS",
    "STATISTICS",
    "Scores",
    "bootstrap_intervals",
    "compute_scores",
    "confusion_matrix",
    "per_image_table",
]
