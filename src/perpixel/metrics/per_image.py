"""One row of scores an image, or a group of images: what the table of best and worst cases is made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from perpixel.errors import InputError
from perpixel.metrics.scores import iou, mean_dice, miou, pixel_accuracy

Row = dict[str, str | int | float | None]


def per_image_table(names: Sequence[str], matrices: ArrayLike, class_names: Sequence[str]) -> list[Row]:
    """Scores of each image by itself. Their mean is not the score of the set, which counts pixels over all images.

    Args:
        names: N image names.
        matrices: (N, K, K) counts, row = truth.
        class_names: K names.
    Returns:
        N rows, in order: name, pixels (labelled ones), miou, mean_dice, pixel_accuracy, then "iou CLASS" for each
        class. None where a class occurs neither in truth nor prediction, or where no pixel is labelled.
    """
    counts = np.asarray(matrices)
    if counts.shape != (len(names), len(class_names), len(class_names)):
        raise InputError(
            f"matrices of shape {counts.shape} for {len(names)} images and {len(class_names)} classes: give (N, K, K)"
        )
    columns = {"miou": miou(counts), "mean_dice": mean_dice(counts), "pixel_accuracy": pixel_accuracy(counts)}
    class_iou = iou(counts)  # (N, K)
    rows: list[Row] = []
    for i, name in enumerate(names):
        row: Row = {"name": name, "pixels": int(counts[i].sum())}
        row.update({key: _plain(column[i]) for key, column in columns.items()})
        row.update({f"iou {label}": _plain(class_iou[i, k]) for k, label in enumerate(class_names)})
        rows.append(row)
    return rows


def per_group_table(groups: Sequence[str], matrices: ArrayLike, class_names: Sequence[str]) -> list[Row]:
    """Scores of each group (patient, slide, city): pixels are counted over all images of a group.

    Args:
        groups: (N,) group of each image.
        matrices, class_names: as for `per_image_table`.
    Returns:
        One row a group, in the order of their first images: name, images, then the columns of `per_image_table`.
    """
    counts = np.asarray(matrices)
    if len(groups) != len(counts):
        raise InputError(f"{len(groups)} groups for {len(counts)} matrices: give one group an image")
    names = list(dict.fromkeys(groups))
    summed = [counts[[group == name for group in groups]].sum(axis=0) for name in names]
    shape = (0, len(class_names), len(class_names))
    rows = per_image_table(names, np.stack(summed) if summed else np.zeros(shape, np.int64), class_names)
    return [{"name": row["name"], "images": list(groups).count(str(row["name"])), **row} for row in rows]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
