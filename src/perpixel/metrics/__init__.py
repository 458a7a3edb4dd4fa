"""Counts first, then scores as one-line formulas on them."""

from __future__ import annotations

from perpixel.metrics.bootstrap import bootstrap_intervals, bootstrap_sums
from perpixel.metrics.boundary import band_counts, boundary_iou, contour_counts
from perpixel.metrics.boundary_scores import (
    BOUNDARY_DEFINITIONS,
    BoundaryRow,
    boundary_intervals,
    boundary_row,
    boundary_scores,
)
from perpixel.metrics.calibration import (
    BINS,
    CALIBRATION_DEFINITIONS,
    Calibration,
    calibration_counts,
    calibration_scores,
)
from perpixel.metrics.confusion import confusion_matrix
from perpixel.metrics.matches import exact_mean, match_f1, match_precision, match_recall
from perpixel.metrics.objects import (
    OBJECT_DEFINITIONS,
    ObjectCounts,
    PairScores,
    best_threshold,
    connected_objects,
    object_counts,
    thin_borders,
)
from perpixel.metrics.per_image import per_group_table, per_image_table
from perpixel.metrics.scores import CLASS_STATISTICS, DEFINITIONS, STATISTICS, Scores, compute_scores
from perpixel.metrics.skeleton import SKELETON_DEFINITIONS, skeleton_counts, skeletonise
from perpixel.metrics.surface import SurfaceDistances, surface_distances
from perpixel.metrics.temperature import TemperatureFit, fit_temperature

__all__ = [
    "BINS",
    "BOUNDARY_DEFINITIONS",
    "CALIBRATION_DEFINITIONS",
    "CLASS_STATISTICS",
    "DEFINITIONS",
    "OBJECT_DEFINITIONS",
    "SKELETON_DEFINITIONS",
    "STATISTICS",
    "BoundaryRow",
    "Calibration",
    "ObjectCounts",
    "PairScores",
    "Scores",
    "SurfaceDistances",
    "TemperatureFit",
    "band_counts",
    "best_threshold",
    "bootstrap_intervals",
    "bootstrap_sums",
    "boundary_intervals",
    "boundary_iou",
    "boundary_row",
    "boundary_scores",
    "calibration_counts",
    "calibration_scores",
    "compute_scores",
    "confusion_matrix",
    "connected_objects",
    "contour_counts",
    "exact_mean",
    "fit_temperature",
    "match_f1",
    "match_precision",
    "match_recall",
    "object_counts",
    "per_group_table",
    "per_image_table",
    "skeleton_counts",
    "skeletonise",
    "surface_distances",
    "thin_borders",
]
