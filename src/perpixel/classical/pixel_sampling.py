"""Which labelled pixels a pixel forest learns from, and what it sees of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from perpixel.classical.features import FilterBank
from perpixel.classical.tiles import Span, tile_features, tiles
from perpixel.compiled import Workers
from perpixel.errors import InputError

# A label map's pixels are drawn so that this share of them is spread evenly over the classes it holds.
_EVEN_SHARE = 0.25
# With fewer pixels than this in all there is nothing to learn from.
_FEWEST = 10


class Samples(NamedTuple):
    """Attributes: features (N, F) float32; classes (N,) int64; images: how many were read; dims: their spatial axes."""

    features: np.ndarray
    classes: np.ndarray
    images: int
    dims: int


def draw_samples(
    load: Callable[[int], tuple[np.ndarray, np.ndarray]],
    count: int,
    bank: FilterBank,
    *,
    num_classes: int,
    ignore_index: int,
    max_pixels: int,
    seed: int,
    deadline: float | None,
    on_image: Callable[[int], None],
) -> Samples:
    """Draw pixels from all images, and compute their features.

    Images come in random order and share the pixels evenly; what one has too few of goes to those after it.

    Args:
        deadline: time.perf_counter() after which no further image is read, as long as two classes were seen.
        on_image: called with the number of images done.
    Raises:
        InputError: fewer than two classes, or too few pixels, are labelled.
    """
    random = np.random.default_rng(seed)
    features: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    dims = 0
    for done, number in enumerate(random.permutation(count)):
        late = deadline is not None and time.perf_counter() > deadline
        if late and len({int(each) for part in classes for each in np.unique(part)}) > 1:
            break
        image, label_map = load(int(number))
        check_pair(image, label_map, number, num_classes, ignore_index)
        if dims not in (0, label_map.ndim):
            raise InputError(f"image {number} has {label_map.ndim} spatial axes and others {dims}: train on one kind")
        dims = label_map.ndim
        share = (max_pixels - sum(map(len, classes))) // (count - done)
        chosen = draw_pixels(label_map, share, ignore_index, random)
        classes.append(label_map.reshape(-1)[chosen].astype(np.int64))
        features.append(features_at(np.ascontiguousarray(image, np.float32), chosen, bank))
        on_image(done + 1)
    samples = Samples(np.concatenate(features), np.concatenate(classes), len(classes), dims)
    _check_enough(samples.classes, count)
    return samples


def check_pair(image: np.ndarray, label_map: np.ndarray, number: int, num_classes: int, ignore_index: int) -> None:
    """Refuse an image and a label map that do not belong together."""
    if image.shape[1:] != label_map.shape or label_map.ndim not in (2, 3):
        raise InputError(
            f"image {number} has shape {image.shape} and its label map {label_map.shape}: give (C, H, W) with (H, W), "
            "or (C, D, H, W) with (D, H, W)"
        )
    wrong = (label_map != ignore_index) & ((label_map < 0) | (label_map >= num_classes))
    if wrong.any():
        raise InputError(
            f"label map {number} holds {label_map[wrong][0]}, outside 0..{num_classes - 1}: fix it, or name that value "
            f"ignore_index (now {ignore_index})"
        )
    if not np.isfinite(image).all():
        raise InputError(f"image {number} holds NaN or infinite values: fix it, or leave it out")


def draw_pixels(label_map: np.ndarray, most: int, ignore_index: int, random: np.random.Generator) -> np.ndarray:
    """Positions (in the flat label map, ascending) of at most `most` labelled pixels.

    A quarter of them is spread evenly over the classes, so that rare ones are seen; the others come as they fall.
    """
    flat = label_map.reshape(-1)
    labelled = np.flatnonzero(flat != ignore_index)
    if len(labelled) <= most:
        return labelled
    present = np.unique(flat[labelled])
    each = int(_EVEN_SHARE * most) // len(present)
    even = [_some(labelled[flat[labelled] == value], each, random) for value in present]
    taken = np.zeros(len(flat), bool)
    taken[np.concatenate(even)] = True
    rest = labelled[~taken[labelled]]
    taken[_some(rest, most - int(taken.sum()), random)] = True
    return np.flatnonzero(taken)


def _some(positions: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    return positions if len(positions) <= most else random.choice(positions, most, replace=False, shuffle=False)


def features_at(image: np.ndarray, chosen: np.ndarray, bank: FilterBank) -> np.ndarray:
    """(N, C * F) float32: the features of the pixels at flat positions `chosen`, of tiles that hold some only."""
    shape = image.shape[1:]
    num_features = len(image) * len(bank.names(len(shape)))
    result = np.empty((len(chosen), num_features), np.float32)
    at = np.stack(np.unravel_index(chosen, shape))
    parts = [(tile, own) for tile in tiles(shape, num_features) if len(own := _inside(at, tile))]

    def one(number: int) -> None:
        tile, own = parts[number]
        local = [axis[own] - begin for axis, (begin, _) in zip(at, tile)]
        place = np.ravel_multi_index(local, [end - begin for begin, end in tile])
        result[own] = tile_features(image, tile, bank)[:, place].T

    with Workers(torch.get_num_threads()) as workers:
        workers.run(one, len(parts))
    return result


def _inside(at: np.ndarray, tile: Sequence[Span]) -> np.ndarray:
    inside = [(axis >= begin) & (axis < end) for axis, (begin, end) in zip(at, tile)]
    return np.flatnonzero(np.logical_and.reduce(inside))


def _check_enough(classes: np.ndarray, images: int) -> None:
    present = np.unique(classes)
    if len(present) < 2:
        seen = f"class {present[0]} only" if len(present) else "no class at all"
        raise InputError(
            f"the labelled pixels of {images} images show {seen}: a forest tells classes apart; label some pixels of "
            "another class too"
        )
    if len(classes) < _FEWEST:
        raise InputError(
            f"{len(classes)} pixels are labelled in {images} images, fewer than {_FEWEST}: draw a longer stroke in "
            "each class"
        )
