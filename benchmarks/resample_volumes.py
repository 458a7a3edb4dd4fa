"""How fast volumes are resampled, beside scikit-image as nnU-Net calls it and SciPy's zoom.

    python benchmarks/resample_volumes.py --size 96 160 160 --target 80 200 200 --classes 9

Prints seconds (the best of some rounds, one after the other) and ratios for an image (cubic), a label map (one-hot,
linear) and probabilities to a label map, and the memory that the last one adds. scikit-image is left out where it is
not installed. Run with OMP_NUM_THREADS=1: the others use one thread.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from perpixel.images import resample_image, resample_label_map, resampled_argmax

Size = tuple[int, int, int]


def one_hot_labels(size: Size, classes: int) -> np.ndarray:
    """Balls at random places."""
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.uint8)
    places = np.indices(size)
    for number in range(1, classes):
        centre = (rng.uniform(0.15, 0.85, 3) * size)[:, None, None, None]
        labels[((places - centre) ** 2).sum(axis=0) < (min(size) / 7) ** 2] = number
    return labels


def scipy_zoom(values: np.ndarray, target: Size, order: int) -> np.ndarray:
    zoom = [there / here for here, there in zip(values.shape, target)]
    mode = "reflect" if order == 3 else "nearest"
    return np.asarray(ndimage.zoom(values, zoom, order=order, mode=mode, grid_mode=True))


def skimage_resize(values: np.ndarray, target: Size, order: int) -> np.ndarray:
    from skimage.transform import resize

    return np.asarray(resize(values, target, order=order, mode="edge", anti_aliasing=False))


def by_class(labels: np.ndarray, target: Size, resize: Callable[..., np.ndarray]) -> np.ndarray:
    """One class after the other, each where its share is at least one half."""
    result = np.zeros(target, np.uint8)
    for value in np.unique(labels):
        result[resize((labels == value).astype(float), target, 1) >= 0.5] = value
    return result


def best(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(96, 160, 160))
    parser.add_argument("--target", type=int, nargs=3, default=(80, 200, 200))
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    size: Size = tuple(options.size)
    target: Size = tuple(options.target)
    rng = np.random.default_rng(0)
    image = rng.normal(size=size).astype(np.float32)
    labels = one_hot_labels(size, options.classes)
    probs = rng.random((options.classes, *size), dtype=np.float32)
    others = {"SciPy": scipy_zoom}
    try:
        import skimage  # noqa: F401

        others["scikit-image"] = skimage_resize
    except ImportError:
        pass
    tasks: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "image, cubic": (lambda: resample_image(image[None], target), lambda resize: resize(image, target, 3)),
        "label map": (lambda: resample_label_map(labels, target), lambda resize: by_class(labels, target, resize)),
        "probabilities to labels": (
            lambda: resampled_argmax(probs, target),
            lambda resize: np.stack([resize(one, target, 1) for one in probs]).argmax(axis=0),
        ),
    }
    print(f"{size} to {target}, {options.classes} classes")
    for name, (ours, theirs) in tasks.items():
        seconds = best(ours, options.rounds)
        parts = [f"{name:<24} perpixel {seconds:.3f} s"]
        for library, resize in others.items():
            taken = best(partial(theirs, resize), 1)
            parts.append(f"{library} {taken:.2f} s ({taken / seconds:.1f}x)")
        print(", ".join(parts))
    tracemalloc.start()
    resampled_argmax(probs, target)
    peak = tracemalloc.get_traced_memory()[1]
    whole = options.classes * np.prod(target) * 4
    print(f"probabilities to labels: {peak / 2**20:.0f} MiB at the peak, all maps at once are {whole / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
