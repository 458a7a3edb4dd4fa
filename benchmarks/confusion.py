"""Confusion matrix of 100 masks of 1024x1024 with 21 classes: perpixel against torchmetrics' JaccardIndex.

    pip install torchmetrics
    python benchmarks/confusion.py --rounds 7

All forms take the same masks in batches, interleaved in one process, each on as many threads as it wants. Printed:
the median time of each, the ratio to torchmetrics round by round (median, lowest, highest), and whether the counts
are the same. torchmetrics gets int64 tensors, which it wants; perpixel gets them too, and uint8 as files hold them.
One per cent of the pixels is ignored; --noise gives the share of pixels whose prediction is random. --boundary also
times contours, bands and surface distances of one image at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from perpixel.metrics import band_counts, compute_scores, confusion_matrix, contour_counts, surface_distances
from perpixel.metrics.confusion import _count_numpy

IGNORED = 255


def draw_masks(count: int, side: int, num_classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, side, side) uint8 truth in blocks of 32 pixels, and a prediction that is wrong in a share of them."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, num_classes, (count, side // 32, side // 32), dtype=np.uint8)
    target = blocks.repeat(32, axis=1).repeat(32, axis=2)
    pred = target.copy()
    for truth, guess in zip(target, pred):  # one by one: a random number a pixel takes eight bytes
        wrong = rng.random(guess.shape) < noise
        guess[wrong] = rng.integers(0, num_classes, int(wrong.sum()), dtype=np.uint8)
        truth[rng.random(truth.shape) < 0.01] = IGNORED
    return pred, target


def count_ours(pred: np.ndarray, target: np.ndarray, num_classes: int, batch: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), np.int64)
    for start in range(0, len(pred), batch):
        part = slice(start, start + batch)
        counts += confusion_matrix(pred[part], target[part], num_classes=num_classes, ignore_index=IGNORED)
    return counts


def count_numpy(pred: np.ndarray, target: np.ndarray, num_classes: int, batch: int) -> np.ndarray:
    """What perpixel does where numba is missing."""
    counts = np.zeros(num_classes * num_classes, np.int64)
    for start in range(0, len(pred), batch):
        part = slice(start, start + batch)
        counts += _count_numpy(pred[part].reshape(-1), target[part].reshape(-1), num_classes, IGNORED)[0]
    return counts.reshape(num_classes, num_classes)


def count_torchmetrics(pred: torch.Tensor, target: torch.Tensor, num_classes: int, batch: int) -> np.ndarray:
    from torchmetrics import JaccardIndex

    metric = JaccardIndex("multiclass", num_classes=num_classes, ignore_index=IGNORED, validate_args=False)
    for start in range(0, len(pred), batch):
        metric.update(pred[start : start + batch], target[start : start + batch])
    metric.compute()
    return metric.confmat.numpy()


def timed(count: Callable[..., np.ndarray], *arguments: object) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    counts = count(*arguments)
    return time.perf_counter() - began, counts


def show_boundary(pred: np.ndarray, target: np.ndarray, num_classes: int) -> None:
    for name, measure in (("contours", contour_counts), ("bands", band_counts), ("surfaces", surface_distances)):
        options = {"num_classes": num_classes, "ignore_index": IGNORED}
        times = []
        for guess, truth in zip(pred[:6], target[:6]):
            began = time.perf_counter()
            measure(guess, truth, **options)
            times.append(time.perf_counter() - began)
        print(f"{name}: median {1000 * statistics.median(times[1:]):.1f} ms an image of {pred.shape[1]} squared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--batch", type=int, default=10, help="masks a call")
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--boundary", action="store_true", help="also time the measures of outlines")
    options = parser.parse_args()
    pred, target = draw_masks(options.masks, options.side, options.classes, options.noise)
    shape = (options.classes, options.batch)
    try:
        import torchmetrics
    except ImportError:
        print("torchmetrics is not installed, so that it is left out: pip install torchmetrics")
        forms: dict[str, tuple[object, ...]] = {}
        wide = None
    else:
        wide = torch.from_numpy(pred).long(), torch.from_numpy(target).long()
        forms = {f"torchmetrics {torchmetrics.__version__}, int64": (count_torchmetrics, *wide, *shape)}
    first = next(iter(forms), None)
    if wide is not None:
        forms["perpixel, int64"] = (count_ours, wide[0].numpy(), wide[1].numpy(), *shape)
    forms["perpixel, uint8"] = (count_ours, pred, target, *shape)
    forms["perpixel without numba, uint8"] = (count_numpy, pred, target, *shape)
    times: dict[str, list[float]] = {name: [] for name in forms}
    tables: dict[str, np.ndarray] = {}
    for turn in range(options.rounds + 1):  # the first round compiles and warms up
        for name, (count, *arguments) in forms.items():
            seconds, tables[name] = timed(count, *arguments)  # type: ignore[arg-type]
            if turn:
                times[name].append(seconds)
    print(f"{options.masks} masks of {options.side} squared, {options.classes} classes, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads of torch")  # fmt: skip
    for name, values in times.items():
        text = f"{name}: median {statistics.median(values):.4f} s"
        if first is not None and name != first:
            ratios = [a / b for a, b in zip(times[first], values)]
            text += f", {statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
        print(text)
    reference = tables["perpixel, uint8"]
    same = all((table == reference).all() for table in tables.values())
    print(f"same counts: {'yes' if same else 'NO'}; mIoU {compute_scores(reference).miou:.6f}")
    if options.boundary:
        show_boundary(pred, target, options.classes)


if __name__ == "__main__":
    main()
