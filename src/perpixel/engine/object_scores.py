"""Scores of predicted objects over a set of images, for validation: COCO's mask AP, AP and F1 at IoU 0.5, PQ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from perpixel.labels import Instances
from perpixel.metrics import (
    DetectionRows,
    InstanceCounts,
    average_precision,
    detection_rows,
    instance_counts,
    instance_scores,
    panoptic_counts,
    panoptic_quality,
)

# COCO keeps 100 detections an image and class; images of cells hold more.
MAX_DETECTIONS = 1000


def score_objects(
    pairs: Iterable[tuple[Instances, Instances]], *, num_classes: int, max_detections: int = MAX_DETECTIONS
) -> dict[str, Any]:
    """Scores of (predicted with scores, true) objects of one image after the other.

    Args:
        num_classes: K, background (class 0) included.
        max_detections: of an image and class that COCO's AP looks at.
    Returns:
        matching_ap50, matching_ap, f1_50, precision_50, recall_50: all classes together, objects matched one to one:
            AP = TP / (TP + FP + FN), at IoU 0.5 and as mean over 0.5, 0.55, ... 0.95.
        mask_ap, mask_ap50, mask_ap75: COCO's, which ranks by score. pq: mean over classes.
        Without any object, true or predicted, all are None.
    """
    counts: list[InstanceCounts] = []
    rows: list[DetectionRows] = []
    tables = np.zeros((num_classes, 4), np.int64)
    for number, (pred, target) in enumerate(pairs):
        counts.append(instance_counts(pred, target, num_classes=num_classes, boundary=False))
        rows.append(detection_rows(pred, target, image=number, num_classes=num_classes, max_detections=max_detections))
        tables += panoptic_counts(pred, target, num_classes=num_classes)
    matched = instance_scores(InstanceCounts.join(counts)).summary()
    ranked = average_precision(DetectionRows.join(rows)).summary()
    scores = {
        "matching_ap50": matched["ap_50"],
        "matching_ap": matched["mean_ap"],
        "f1_50": matched["f1_50"],
        "precision_50": matched["precision_50"],
        "recall_50": matched["recall_50"],
        "mask_ap": ranked["ap"],
        "mask_ap50": ranked["ap50"],
        "mask_ap75": ranked["ap75"],
        "pq": panoptic_quality(tables).summary()["pq"],
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in scores.items()}
