"""The table of counts that all scores of label maps come from.

The count runs in a compiled loop (numba) that releases the interpreter, one slice of the pixels a thread; without
numba NumPy gives the same table, some ten times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpixel.compiled import compile_loop, usable_cores
from perpixel.errors import InputError

# Below this many pixels a second thread costs more than it saves.
_PIXELS_PER_THREAD = 1 << 18
_NUMPY_CHUNK = 1 << 20
# Tables that are counted into in turn, and pixels whose cells are worked out before they are counted.
LANES, _BLOCK = 8, 1 << 14

# (pred, target, num_classes, ignored, has_ignored, counts (LANES, (K + 1) ** 2)) -> ignored pixels
Kernel = Callable[[NDArray[Any], NDArray[Any], Any, Any, bool, NDArray[np.int64]], int]


def confusion_matrix(pred: Any, target: Any, *, num_classes: int, ignore_index: int | None = None) -> NDArray[np.int64]:
    """Count the pixels of each true class by the class predicted for them.

    Args:
        pred, target: class ids of any one shape, NumPy arrays or torch tensors of whole numbers.
        num_classes: K, background included.
        ignore_index: pixels whose *target* is this are not counted, whatever is predicted there.
    Returns:
        (K, K) int64; row = truth, column = prediction. Tables of several images add up.
    Raises:
        InputError: shapes differ, values are not whole numbers, or one that counts lies outside 0..K-1.
    """
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: give 1 or more")
    pred_ids, target_ids = _as_integers(pred, "pred"), _as_integers(target, "target")
    if pred_ids.shape != target_ids.shape:
        raise InputError(
            f"pred {pred_ids.shape} and target {target_ids.shape} differ in shape: resize the prediction to the truth"
        )
    flat_pred, flat_target = pred_ids.reshape(-1), target_ids.reshape(-1)
    counts, bad = _count(flat_pred, flat_target, num_classes, ignore_index)
    if bad >= 0:
        _refuse(flat_pred[bad], flat_target[bad], num_classes, ignore_index)
    return counts.reshape(num_classes, num_classes)


def _as_integers(values: Any, name: str) -> NDArray[Any]:
    """`values` as uint8 or int64, so that few forms of the loop are compiled."""
    if hasattr(values, "detach"):  # a torch tensor, without importing torch
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).view(np.uint8)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype}: give class ids as whole numbers (logits: take argmax over classes)")
    return np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else np.int64)


def _refuse(pred: Any, target: Any, num_classes: int, ignore_index: int | None) -> None:
    is_target = not 0 <= target < num_classes
    name, value = ("target", target) if is_target else ("pred", pred)
    remedy = (
        f"fix the label map, or name that value ignore_index (now {ignore_index})" if is_target else "check the model"
    )
    raise InputError(f"{name} holds {value}, outside 0..{num_classes - 1} ({num_classes} classes): {remedy}")


def _count(
    pred: NDArray[Any], target: NDArray[Any], num_classes: int, ignored: int | None
) -> tuple[NDArray[np.int64], int]:
    """(K * K,) counts, and the position of a value out of range or -1."""
    kernel = _compiled()
    if kernel is None:
        return _count_numpy(pred, target, num_classes, ignored)
    threads = min(usable_cores(), 1 + pred.size // _PIXELS_PER_THREAD)
    edges = [pred.size * i // threads for i in range(threads + 1)]

    def part(i: int) -> tuple[NDArray[np.int64], int]:
        return _count_part(kernel, pred[edges[i] : edges[i + 1]], target[edges[i] : edges[i + 1]], num_classes, ignored)

    if threads == 1:
        return part(0)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(part, range(threads)))
    first_bad = min((edges[i] + bad for i, (_, bad) in enumerate(parts) if bad >= 0), default=-1)
    return np.sum([counts for counts, _ in parts], axis=0), first_bad


def _count_part(
    kernel: Kernel, pred: NDArray[Any], target: NDArray[Any], num_classes: int, ignored: int | None
) -> tuple[NDArray[np.int64], int]:
    """One slice: the loop counts what is no class in a row and a column of its own; only then NumPy looks for it."""
    is_narrow = pred.dtype == np.uint8 and target.dtype == np.uint8 and num_classes <= np.iinfo(np.uint8).max
    kind, signed = (np.uint8, np.uint8) if is_narrow else (np.uint64, np.int64)
    if kind is np.uint64:  # unsigned, what lies below 0 lies far above the classes as well
        pred, target = pred.astype(np.int64, copy=False).view(kind), target.astype(np.int64, copy=False).view(kind)
    has_ignored = ignored is not None and (kind is np.uint64 or 0 <= ignored <= 255)
    value = np.array([ignored if has_ignored else 0]).astype(kind)[0]
    tables = np.zeros((LANES, (num_classes + 1) ** 2), dtype=np.int64)
    left_out = kernel(pred, target, kind(num_classes), value, has_ignored, tables)
    counts = tables.sum(axis=0).reshape(num_classes + 1, num_classes + 1)
    if counts[-1].sum() == left_out and not counts[:-1, -1].any():
        return np.ascontiguousarray(counts[:-1, :-1]).reshape(-1), -1
    return _count_numpy(pred.view(signed), target.view(signed), num_classes, ignored)


def _count_numpy(
    pred: NDArray[Any], target: NDArray[Any], num_classes: int, ignored: int | None
) -> tuple[NDArray[np.int64], int]:
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    for start in range(0, pred.size, _NUMPY_CHUNK):
        truth = target[start : start + _NUMPY_CHUNK].astype(np.int64)
        guess = pred[start : start + _NUMPY_CHUNK].astype(np.int64)
        valid = np.ones(truth.shape, bool) if ignored is None else truth != ignored
        bad = valid & ((truth < 0) | (truth >= num_classes) | (guess < 0) | (guess >= num_classes))
        if bad.any():
            return counts, start + int(bad.argmax())
        counts += np.bincount((truth * num_classes + guess)[valid], minlength=counts.size)
    return counts, -1


def _loop(
    pred: NDArray[Any], target: NDArray[Any], num_classes: Any, ignored: Any, has_ignored: bool, counts: NDArray[Any]
) -> int:
    # First the cells of a block of pixels, without a branch, so that the compiler does many at once; then the counting.
    # Neighbours mostly hit the same cell: eight tables in turn let one add start before the last is stored, and the
    # inner loop of known length is unrolled (measured 2.3 times as fast as one table).
    cells = np.empty(_BLOCK, np.uint32)
    tables = counts.ravel()
    tables[:] = 0
    width, size = np.uint32(num_classes) + np.uint32(1), np.uint64(counts.shape[1])
    left_out = 0
    for start in range(0, pred.size, _BLOCK):
        count = min(_BLOCK, pred.size - start)
        truths, guesses = target[start : start + count], pred[start : start + count]
        skipped = np.uint32(0)
        for i in range(count):
            is_ignored = np.uint32((truths[i] == ignored) & has_ignored)
            skipped += is_ignored
            row = num_classes if is_ignored else min(truths[i], num_classes)
            cells[i] = np.uint32(row) * width + np.uint32(min(guesses[i], num_classes))
        left_out += int(skipped)
        whole = count // LANES * LANES
        for first in range(0, whole, LANES):
            for lane in range(LANES):
                tables[np.uint64(lane) * size + np.uint64(cells[first + lane])] += 1
        for i in range(whole, count):
            tables[np.uint64(cells[i])] += 1
    return left_out


@cache
def _compiled() -> Kernel | None:
    """The compiled loop; None without numba (or with its compiler switched off)."""
    return compile_loop(_loop)
