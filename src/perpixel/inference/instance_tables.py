"""The objects of an image in rows: what the table of objects and the COCO file say of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError
from perpixel.labels import ClassTable, Instances, coco_entries


def object_rows(image: np.ndarray, instances: Instances, table: ClassTable) -> list[dict[str, Any]]:
    """One row an object, in order.

    Args:
        image: (H, W, C) of the file's own values.
    Returns:
        id (from 1, its number in the label image), class, score, area (pixels of its mask), x0 y0 x1 y1 of its box,
        centroid_x, centroid_y (the centre of the first pixel lies at 0.5), equivalent_diameter (of the disc of its
        area), and mean_1 .. mean_C, the mean of each channel over its mask.
    Raises:
        InputError: image and objects differ in size.
    """
    if image.shape[:2] != instances.size:
        raise InputError(f"objects of an image of {instances.size} over one of {image.shape[:2]}: give its own image")
    means = mean_intensities(image, instances)
    centres, areas = instances.masks.centroids, instances.masks.areas
    rows = []
    for index in range(len(instances)):
        x0, y0, x1, y1 = instances.boxes[index].tolist()
        row = {
            "id": index + 1,
            "class": table.names[instances.classes[index]],
            "score": None if instances.scores is None else round(float(instances.scores[index]), 6),
            "area": int(areas[index]),
            **{name: round(value, 3) for name, value in zip(("x0", "y0", "x1", "y1"), (x0, y0, x1, y1))},
            "centroid_x": round(float(centres[index, 0]), 3),
            "centroid_y": round(float(centres[index, 1]), 3),
            "equivalent_diameter": round(math.sqrt(4 * float(areas[index]) / math.pi), 3),
        }
        rows.append(row | {f"mean_{channel + 1}": float(value) for channel, value in enumerate(means[index])})
    return rows


def mean_intensities(image: np.ndarray, instances: Instances) -> NDArray[np.float64]:
    """(N, C) mean of each channel over the mask of each object, to six digits; NaN of an empty mask."""
    means = np.full((len(instances), image.shape[2]), np.nan)
    for index in range(len(instances)):
        mask, (row, col) = instances.masks.crop(index)
        if mask.size:
            window = image[row : row + mask.shape[0], col : col + mask.shape[1]]
            means[index] = window[mask].astype(np.float64).mean(axis=0)
    return np.array([float(f"{value:.6g}") for value in means.ravel()]).reshape(means.shape)


def category_ids(table: ClassTable) -> list[int | None]:
    """COCO's category id of each class: the value that it has in the files, None of background.

    Where values are missing, no whole numbers or not different, the class index stands for all.
    """
    values = [one.values[0] if one.values else None for one in table.classes[1:]]
    ids = [value for value in values if isinstance(value, int)]
    if len(set(ids)) == len(values):
        return [None, *ids]
    return [None, *range(1, table.num_classes)]


def coco_categories(table: ClassTable) -> list[dict[str, Any]]:
    """The list of categories of a COCO file."""
    return [{"id": number, "name": name} for number, name in zip(category_ids(table)[1:], table.names[1:])]


def coco_annotations(instances: Instances, table: ClassTable, *, image_id: int = 0) -> list[dict[str, Any]]:
    """Entries of a COCO file: mask as run lengths, box, area, category and score."""
    entries = coco_entries(instances, image_id=image_id, category_ids=category_ids(table))
    areas = instances.masks.areas.tolist()
    return [entry | {"area": area, "iscrowd": 0} for entry, area in zip(entries, areas, strict=True)]
