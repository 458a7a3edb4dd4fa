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
from perpixel.metrics.coco_ap import (
    AP_DEFINITIONS,
    AveragePrecision,
    DetectionRows,
    average_precision,
    detection_rows,
)
from perpixel.metrics.confusion import confusion_matrix
from perpixel.metrics.instances import (
    INSTANCE_DEFINITIONS,
    InstanceCounts,
    InstanceScores,
    instance_counts,
    instance_scores,
)
from perpixel.metrics.matches import exact_mean, match_f1, match_precision, match_recall
from perpixel.metrics.object_bands import object_bands
from perpixel.metrics.object_errors import ERROR_DEFINITIONS, ObjectErrors, object_errors
from perpixel.metrics.objects import (
    OBJECT_DEFINITIONS,
    ObjectCounts,
    PairScores,
    best_threshold,
    connected_objects,
    object_counts,
    thin_borders,
)
from perpixel.metrics.panoptic import PANOPTIC_DEFINITIONS, PanopticQuality, panoptic_counts, panoptic_quality
from perpixel.metrics.per_image import per_group_table, per_image_table
from perpixel.metrics.precision_curves import precision_curves
from perpixel.metrics.scores import CLASS_STATISTICS, DEFINITIONS, STATISTICS, Scores, compute_scores, dice, iou
from perpixel.metrics.skeleton import SKELETON_DEFINITIONS, skeleton_counts, skeletonise
from perpixel.metrics.surface import SurfaceDistances, surface_distances
from perpixel.metrics.temperature import TemperatureFit, fit_temperature

__all__ = [
    "AP_DEFINITIONS",
    "BINS",
    "BOUNDARY_DEFINITIONS",
    "CALIBRATION_DEFINITIONS",
    "CLASS_STATISTICS",
    "DEFINITIONS",
    "ERROR_DEFINITIONS",
    "INSTANCE_DEFINITIONS",
    "OBJECT_DEFINITIONS",
    "PANOPTIC_DEFINITIONS",
    "SKELETON_DEFINITIONS",
    "STATISTICS",
    "AveragePrecision",
    "BoundaryRow",
    "Calibration",
    "DetectionRows",
    "InstanceCounts",
    "InstanceScores",
    "ObjectCounts",
    "ObjectErrors",
    "PairScores",
    "PanopticQuality",
    "Scores",
    "SurfaceDistances",
    "TemperatureFit",
    "average_precision",
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
    "detection_rows",
    "dice",
    "exact_mean",
    "fit_temperature",
    "instance_counts",
    "instance_scores",
    "iou",
    "match_f1",
    "match_precision",
    "match_recall",
    "object_bands",
    "object_counts",
    "object_errors",
    "panoptic_counts",
    "panoptic_quality",
    "per_group_table",
    "per_image_table",
    "precision_curves",
    "skeleton_counts",
    "skeletonise",
    "surface_distances",
    "thin_borders",
]
