"""Pictures of a volume: slices in three planes through the middle of what is labelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perpixel.images import resize_image, to_display
from perpixel.labels.classes import ClassTable
from perpixel.labels.maps import resize_label_map
from perpixel.labels.pictures import overlay

PLANE_GAP = 4
# Values that the darkest and the brightest grey stand for.
SHOWN_PERCENT = (0.5, 99.8)


@dataclass(frozen=True)
class Plane:
    """One slice, head up (rows that run along the depth are turned), and the size of its pixels in mm."""

    image: np.ndarray
    label_map: np.ndarray
    spacing_mm: tuple[float, float]


def middle_planes(
    image: np.ndarray, label_map: np.ndarray, table: ClassTable, spacing_mm: tuple[float, float, float]
) -> list[Plane]:
    """The axial, coronal and sagittal slice through the middle of the foreground, or of the volume without any.

    Args:
        image: (C, D, H, W); the first channel is shown.
        label_map: (D, H, W) class indices.
    """
    places = middle_of_structures(label_map, table)
    pairs = zip(cut_planes(image[0], places), cut_planes(label_map, places))
    sizes = ((spacing_mm[1], spacing_mm[2]), (spacing_mm[0], spacing_mm[2]), (spacing_mm[0], spacing_mm[1]))
    return [Plane(grey, labels, size) for (grey, labels), size in zip(pairs, sizes)]


def middle_of_structures(label_map: np.ndarray, table: ClassTable) -> tuple[int, int, int]:
    """The voxel (depth, row, column) in the middle of the foreground, or of the volume without any."""
    inside = (label_map != background_index(table)) & (label_map < table.num_classes)
    held = inside if inside.any() else np.ones_like(inside)
    depth, row, col = (int(np.median(np.flatnonzero(held.any(axis=tuple({0, 1, 2} - {axis}))))) for axis in range(3))
    return depth, row, col


def cut_planes(volume: np.ndarray, places: tuple[int, int, int]) -> list[np.ndarray]:
    """The axial, coronal and sagittal slice of (D, H, W) through a voxel, head up."""
    depth, row, col = places
    return [volume[depth], volume[::-1, row], volume[::-1, :, col]]


def background_index(table: ClassTable) -> int:
    """The class called background, else the first."""
    names = [name.lower() for name in table.names]
    return names.index("background") if "background" in names else 0


def draw_planes(
    image: np.ndarray,
    label_map: np.ndarray,
    table: ClassTable,
    spacing_mm: tuple[float, float, float],
    box: tuple[int, int],
    paper: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Two strips of the same (H, W, 3) uint8 that fit into `box` (width, height): the planes, and with the classes.

    Lengths are to scale: one millimetre is as long in all three planes.
    """
    planes = middle_planes(image, label_map, table, spacing_mm)
    heights = [plane.image.shape[0] * plane.spacing_mm[0] for plane in planes]
    widths = [plane.image.shape[1] * plane.spacing_mm[1] for plane in planes]
    scale = min((box[0] - 2 * PLANE_GAP) / sum(widths), box[1] / max(heights))
    sizes = [(max(1, int(high * scale)), max(1, int(wide * scale))) for high, wide in zip(heights, widths)]
    low, high = np.percentile(image[0], SHOWN_PERCENT)
    strips = [np.full((max(size[0] for size in sizes), box[0], 3), paper, np.uint8) for _ in range(2)]
    left = 0
    for plane, size in zip(planes, sizes):
        shown = resize_image(to_display(plane.image[..., None].astype(np.float32), float(low), float(high)), size)
        painted = overlay(shown, resize_label_map(plane.label_map, size), table, alpha=0.55)
        for strip, picture in zip(strips, (shown, painted)):
            strip[: size[0], left : left + size[1]] = picture
        left += size[1] + PLANE_GAP
    used = max(1, left - PLANE_GAP)
    return strips[0][:, :used], strips[1][:, :used]
