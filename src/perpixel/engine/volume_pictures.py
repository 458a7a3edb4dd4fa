"""Pictures of a volume's prediction: three planes through its structures, and all slices for a viewer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perpixel.images import resize_image, to_display, write_png
from perpixel.labels import (
    SHOWN_PERCENT,
    ClassTable,
    Plane,
    boundaries,
    colourise,
    cut_planes,
    error_map,
    middle_of_structures,
    middle_planes,
    resize_label_map,
)

Triple = tuple[float, float, float]

# Longest side of a plane's picture, and the white between two planes.
PLANE_SIDE, GAP = 360, 6
PAPER = 255
# Outlines of the truth and of the prediction; where both run they are white.
TRUTH, PREDICTION, BOTH = (46, 230, 120), (255, 70, 180), (255, 255, 255)
# Longest side of what the viewer gets; larger volumes are shown at every second, third, ... voxel.
VIEW_SIDE = 128


@dataclass(frozen=True, eq=False)
class PredictedCase:
    """One volume with truth and prediction: image (C, D, H, W), the others (D, H, W)."""

    image: np.ndarray
    target: np.ndarray
    pred: np.ndarray
    uncertainty: np.ndarray
    spacing_mm: Triple


def plane_pictures(case: PredictedCase, table: ClassTable) -> dict[str, np.ndarray]:
    """image, outlines, truth, prediction, error and uncertainty, (h, w, 3) uint8 each.

    In each the axial, coronal and sagittal plane through the middle of the true structures, below one another, on one
    scale: a millimetre is as long in all of them.
    """
    low, high = np.percentile(case.image[0], SHOWN_PERCENT)
    labelled = middle_planes(case.image, case.target, table, case.spacing_mm)
    places = middle_of_structures(case.target, table)
    others = zip(cut_planes(case.pred, places), cut_planes(case.uncertainty, places))
    heights = [plane.image.shape[0] * plane.spacing_mm[0] for plane in labelled]
    widths = [plane.image.shape[1] * plane.spacing_mm[1] for plane in labelled]
    scale = PLANE_SIDE / max(*heights, *widths)
    sizes = [
        (max(1, round(high_mm * scale)), max(1, round(wide_mm * scale))) for high_mm, wide_mm in zip(heights, widths)
    ]
    rows: dict[str, list[np.ndarray]] = {}
    for plane, size, (pred, doubt) in zip(labelled, sizes, others):
        for kind, picture in _one_plane(plane, pred, doubt, size, (float(low), float(high)), table).items():
            rows.setdefault(kind, []).append(picture)
    return {kind: _stack(pictures) for kind, pictures in rows.items()}


def _one_plane(
    plane: Plane,
    pred: np.ndarray,
    doubt: np.ndarray,
    size: tuple[int, int],
    ends: tuple[float, float],
    table: ClassTable,
) -> dict[str, np.ndarray]:
    grey = resize_image(to_display(plane.image[..., None].astype(np.float32), *ends), size)
    target, found = resize_label_map(plane.label_map, size), resize_label_map(pred, size)
    heat = (np.clip(resize_image(doubt[..., None].astype(np.float32), size)[..., 0], 0, 1) * 255).astype(np.uint8)
    return {
        "image": grey,
        "outlines": _outlines(grey, target, found, table),
        "truth": colourise(target, table),
        "prediction": colourise(found, table),
        "error": error_map(found, target, table.ignore_index),
        "uncertainty": cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)[..., ::-1].copy(),
    }


def _outlines(grey: np.ndarray, target: np.ndarray, found: np.ndarray, table: ClassTable) -> np.ndarray:
    """Outlines of truth and prediction on the image. What is not labelled has none."""
    target = np.where(target >= table.num_classes, found, target)
    result = grey.copy()
    true_edge, found_edge = boundaries(target), boundaries(found)
    result[true_edge], result[found_edge] = TRUTH, PREDICTION
    result[true_edge & found_edge] = BOTH
    return result


def _stack(pictures: list[np.ndarray]) -> np.ndarray:
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + GAP * (len(pictures) - 1)
    result = np.full((height, width, 3), PAPER, np.uint8)
    top = 0
    for picture in pictures:
        left = (width - picture.shape[1]) // 2
        result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += picture.shape[0] + GAP
    return result


def write_slices(case: PredictedCase, folder: Path, stem: str) -> dict[str, Any]:
    """All slices of image, truth and prediction as sheets for the viewer, and what it needs to know of them.

    Each sheet is a grey PNG with the slices side by side, `columns` in a row: shades of the image, or class indices.

    Returns:
        {"shape": [d, h, w], "columns", "spacing_mm", "files": {"image", "truth", "prediction"}}, names within `folder`.
    """
    step = [max(1, math.ceil(side / VIEW_SIDE)) for side in case.target.shape]
    cut = tuple(slice(None, None, each) for each in step)
    low, high = np.percentile(case.image[0], SHOWN_PERCENT)
    shown = (case.image[0][cut].astype(np.float32) - low) / max(float(high - low), 1e-12)
    parts = {
        "image": (np.clip(shown, 0, 1) * 255).round().astype(np.uint8),
        "truth": case.target[cut].astype(np.uint8),
        "prediction": case.pred[cut].astype(np.uint8),
    }
    depth, height, width = parts["truth"].shape
    columns = math.ceil(math.sqrt(depth))
    files = {kind: f"{stem}_slices_{kind}.png" for kind in parts}
    for kind, part in parts.items():
        write_png(folder / files[kind], _sheet(part, columns))
    return {
        "shape": [depth, height, width],
        "columns": columns,
        "spacing_mm": [side * each for side, each in zip(case.spacing_mm, step)],
        "files": files,
    }


def _sheet(volume: np.ndarray, columns: int) -> np.ndarray:
    depth, height, width = volume.shape
    rows = math.ceil(depth / columns)
    sheet = np.zeros((rows * height, columns * width), np.uint8)
    for number, part in enumerate(volume):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = part
    return sheet
