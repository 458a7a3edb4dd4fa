"""Which pixels a texton forest is trained on: a regular grid of the labelled ones, rare classes drawn more densely."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from perpixel.errors import InputError

# Labelled pixels of the grid that are remembered for all images together.
CANDIDATES = 20_000_000
LEAST_PIXELS = 20

Load = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass
class Seen:
    """What one look at an image leaves: labelled pixels of the grid (flat numbers, classes), classes shown, size."""

    number: int
    pixels: np.ndarray
    labels: np.ndarray
    shown: np.ndarray
    size: tuple[int, int]


@dataclass
class Sample:
    """Training pixels, image by image: flat number, class, place of the image in the list of those seen.

    counts: (K,) labelled pixels that they were drawn from.
    """

    pixels: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    counts: np.ndarray

    def runs(self, seen: list[Seen]) -> Iterator[tuple[Seen, slice]]:
        """Images with training pixels, and where those are."""
        edges = np.searchsorted(self.places, np.arange(len(seen) + 1))
        for place, each in enumerate(seen):
            if edges[place] < edges[place + 1]:
                yield each, slice(int(edges[place]), int(edges[place + 1]))

    def drawn(self) -> np.ndarray:
        """(K,) training pixels of each class."""
        return np.bincount(self.labels, minlength=len(self.counts))

    def stands_for(self) -> np.ndarray:
        """(n,) float64: how many labelled pixels each training pixel was drawn from."""
        return (self.counts / np.maximum(self.drawn(), 1))[self.labels]

    def first(self, count: int) -> Sample:
        """The first pixels only."""
        return Sample(self.pixels[:count], self.labels[:count], self.places[:count], self.counts)


def survey(
    load: Load,
    count: int,
    classes: int,
    ignore_index: int,
    *,
    grid: int,
    seed: int,
    is_over: Callable[[], bool],
    step: Callable[[str], None],
) -> list[Seen]:
    """Look at every image once, in random order, until `is_over` says yes.

    Raises:
        InputError: a volume.
    """
    most = max(1000, CANDIDATES // max(1, count))
    seen: list[Seen] = []
    for number in np.random.default_rng([seed, 1]).permutation(count):
        if seen and is_over():
            break
        image, label_map = load(int(number))
        if label_map.ndim != 2:
            raise InputError(
                f"training image {number} of shape {image.shape}: a texton forest learns from 2-D images (C, H, W) "
                "only; use pixel_forest for volumes"
            )
        pixels, labels = grid_pixels(label_map, grid, ignore_index)
        if len(labels) > most:
            kept = np.sort(np.random.default_rng([seed, 2, int(number)]).choice(len(labels), most, replace=False))
            pixels, labels = pixels[kept], labels[kept]
        found = np.unique(label_map)
        shown = np.zeros(classes, bool)
        shown[found[found != ignore_index].astype(np.int64)] = True
        seen.append(Seen(int(number), pixels, labels, shown, (label_map.shape[0], label_map.shape[1])))
        step("looking at the labels")
    return seen


def grid_pixels(label_map: np.ndarray, grid: int, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat numbers and classes of the labelled pixels on a grid; of all where fewer than a tenth is labelled."""
    labelled = label_map != ignore_index
    if labelled.mean() >= 0.1:
        on_grid = np.zeros_like(labelled)
        on_grid[grid // 2 :: grid, grid // 2 :: grid] = True
        if (on_grid & labelled).sum() >= LEAST_PIXELS:
            labelled &= on_grid
    pixels = np.flatnonzero(labelled)
    return pixels.astype(np.int64), label_map.reshape(-1)[pixels].astype(np.int16)


def check_labels(seen: list[Seen], classes: int) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        InputError
    """
    counts = sum((np.bincount(each.labels, minlength=classes) for each in seen), np.zeros(classes, np.int64))
    total = int(counts.sum())
    if total < LEAST_PIXELS:
        raise InputError(
            f"{total} labelled pixels in {len(seen)} images: a texton forest needs {LEAST_PIXELS} at least: label more"
        )
    if np.count_nonzero(counts) < 2:
        raise InputError(
            f"all {total} labelled pixels are of class {int(counts.argmax())}: a texton forest needs two classes: "
            "label some pixels of another"
        )


def draw_pixels(seen: list[Seen], classes: int, wanted: int, seed: int) -> Sample:
    """At most `wanted` of the pixels seen; of each class in proportion to the root of its number."""
    labels = np.concatenate([each.labels for each in seen])
    pixels = np.concatenate([each.pixels for each in seen])
    places = np.repeat(np.arange(len(seen)), [len(each.labels) for each in seen])
    counts = np.bincount(labels, minlength=classes)
    if len(labels) > wanted:
        random, quotas = np.random.default_rng([seed, 3]), class_quotas(counts, wanted)
        kept = [
            random.choice(np.flatnonzero(labels == k), quota, replace=False) for k, quota in enumerate(quotas) if quota
        ]
        chosen = np.sort(np.concatenate(kept))
        pixels, labels, places = pixels[chosen], labels[chosen], places[chosen]
    return Sample(pixels, labels, places, counts)


def class_quotas(counts: np.ndarray, wanted: int) -> np.ndarray:
    """(K,) pixels to draw of each class: min(count, level * root of count), `wanted` in all or just below."""
    roots, low, high = np.sqrt(counts), 0.0, float(np.sqrt(counts.max()))
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(counts, level * roots).sum() <= wanted else (low, level)
    return np.minimum(counts, np.maximum(low * roots, 1)).astype(np.int64)
