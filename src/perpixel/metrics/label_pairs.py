"""A predicted and a true label map, checked and brought to one form: what all measures of shapes start from.

Pixels whose target is `ignore_index` belong to no class in either map: what is not labelled is treated as what lies
outside the image. So an unlabelled strip along an object is neither a contour that a net could miss nor one that it
could find.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.errors import InputError

OUTSIDE = -1  # where nothing is labelled

IntMap = NDArray[np.int32]


def label_pair(pred: Any, target: Any, num_classes: int, ignore_index: int | None) -> tuple[IntMap, IntMap]:
    """Both maps as int32 with OUTSIDE where the target is ignored.

    Args:
        pred, target: class ids of any one shape (H, W) or (D, H, W), NumPy arrays or torch tensors of whole numbers.
    Raises:
        InputError: shapes differ or have fewer than 2 axes, values are not whole numbers, or one that counts lies
            outside 0..num_classes-1.
    """
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: give 1 or more")
    pred_ids, target_ids = as_map(pred, "pred"), as_map(target, "target")
    if pred_ids.shape != target_ids.shape:
        raise InputError(
            f"pred {pred_ids.shape} and target {target_ids.shape} differ in shape: resize the prediction to the truth"
        )
    outside = target_ids == ignore_index if ignore_index is not None else np.zeros(target_ids.shape, bool)
    for name, values in (("target", target_ids), ("pred", pred_ids)):
        wrong = ((values < 0) | (values >= num_classes)) & ~outside
        if wrong.any():
            raise InputError(
                f"{name} holds {values[wrong][0]}, outside 0..{num_classes - 1} ({num_classes} classes): "
                "give class ids, and name the value of unlabelled pixels ignore_index"
            )
    clean = [values.astype(np.int32) for values in (pred_ids, target_ids)]
    for values in clean:
        values[outside] = OUTSIDE
    return clean[0], clean[1]


def as_map(values: Any, name: str) -> NDArray[Any]:
    """`values` as a NumPy array of whole numbers with 2 axes or more; bool becomes 0 and 1."""
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == np.bool_:
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype}: give class ids as whole numbers (logits: take argmax over classes)")
    if array.ndim < 2 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}: give a map with pixels, (H, W) or (D, H, W)")
    return array.astype(np.int64) if array.dtype == np.uint64 else array


def as_spacing(spacing: Any, ndim: int) -> NDArray[np.float64]:
    """(ndim,) size of a pixel along each axis; None is 1 everywhere.

    Raises:
        InputError: not one positive number an axis.
    """
    if spacing is None:
        return np.ones(ndim)
    sizes = np.asarray(spacing, dtype=np.float64).reshape(-1)
    if sizes.shape != (ndim,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(
            f"spacing {np.asarray(spacing).tolist()}: give one positive number for each of the {ndim} axes, as "
            f"{(1.0,) * ndim}, in the order of the axes"
        )
    return sizes


def diagonal(shape: tuple[int, ...], spacing: Any = None) -> float:
    """Length of the image's diagonal, in pixels or in units of `spacing`."""
    return float(np.linalg.norm(np.asarray(shape) * as_spacing(spacing, len(shape))))
