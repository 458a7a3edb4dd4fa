r"""From maps of a net to objects: a watershed whose basins are joined unless a deep enough valley parts them.

A height map has a hill on each object. Pixels are flooded from the highest down; a pixel without a labelled neighbour
begins a basin. Where two basins meet, they become one when the lower one's top stands out of the pass between them by
less than `persistence`: a dent of noise never cuts an object in two, and no markers have to be found beforehand.

    height       _          _   _
               _/ \_      _/ \_/ \      the left pass is deep: two objects
              /     \____/        \     the right one is shallow: one object

The height over the pass is called the dynamics of a top (Grimaud, "New measure of contrast: the dynamics", SPIE 1992)
or its persistence (Edelsbrunner et al. 2002); flooding by a queue is Vincent and Soille's watershed (PAMI 1991).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.labels.instances import Instances

# Heights 0..1 are sorted in as many steps, so that 16-bit numbers hold them and equal ones are equal everywhere.
LEVELS = 4096

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Grouping:
    """How maps become objects. All are shares of 0..1 but the area.

    Attributes:
        foreground: a pixel belongs to an object where the probability of background is no more than 1 - this.
        persistence: two hills are one object unless the lower one rises by this above the pass between them.
        contact: by how much of itself the height sinks where two objects are sure to meet.
        least_peak: an object whose hill is lower is left out.
        least_score: an object of a lower score is left out.
        least_area: an object of fewer pixels is left out, or joined to the one it touches.
    """

    foreground: float = 0.5
    persistence: float = 0.15
    contact: float = 1.0
    least_peak: float = 0.2
    least_score: float = 0.0
    least_area: int = 12

    def __post_init__(self) -> None:
        for name in ("foreground", "persistence", "contact", "least_peak", "least_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"grouping: {name} is {getattr(self, name)}: give a share from 0 to 1")
        if self.least_area < 0:
            raise InputError(f"grouping: least_area is {self.least_area}: give a number of pixels, 0 or more")

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Grouping:
        """Read what `to_json` wrote; what is not named has its default.

        Raises:
            InputError: an unknown name, or a value out of range.
        """
        unknown = set(content) - set(cls.__dataclass_fields__)
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"grouping: unknown setting '{sorted(unknown)[0]}': known are {known}")
        return cls(**content)


def group_objects(probs: Floats, height: Floats, contact: Floats, grouping: Grouping) -> Instances:
    """The objects of an image, best first.

    Args:
        probs: (K, H, W) probabilities of the classes, 0 is background.
        height: (H, W) in 0..1: the hill of each object.
        contact: (H, W) probability that two objects meet here.
    Returns:
        Objects that do not overlap, without holes, each of the class with the highest sum of probabilities; the score
        is the mean probability of that class over its pixels times the height of its hill.
    """
    mask = probs[0] <= 1 - grouping.foreground
    hills = np.clip(height * (1 - grouping.contact * contact), 0, 1)
    basins, peaks = persistent_basins(hills, mask, persistence=grouping.persistence, least_area=grouping.least_area)
    areas = np.bincount(basins.ravel(), minlength=len(peaks) + 1)[1:]
    kept = (areas >= grouping.least_area) & (peaks >= grouping.least_peak)
    numbers = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
    instance_map, count = fill_holes(numbers[basins]), int(kept.sum())
    places = np.flatnonzero(instance_map)
    owners = instance_map.ravel()[places]
    sums = np.stack(
        [np.bincount(owners, layer.ravel()[places], minlength=count + 1)[1:] for layer in probs[1:]]
    )  # (K - 1, n)
    sizes = np.bincount(owners, minlength=count + 1)[1:]
    scores = sums.max(axis=0) / np.maximum(sizes, 1) * peaks[kept] if count else np.zeros(0)
    found = Instances.from_label_map(
        instance_map,
        dict(enumerate((sums.argmax(axis=0) + 1).tolist(), 1)),
        scores=dict(enumerate(scores.tolist(), 1)),
    )
    order = np.argsort(-scores, kind="stable")
    return found.take(order[scores[order] >= grouping.least_score])


def persistent_basins(
    height: Any, mask: NDArray[np.bool_], *, persistence: float, least_area: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Watershed of a height map within a mask, from the tops down; pixels touch at sides and corners.

    Args:
        height: (H, W) in 0..1.
        mask: (H, W) bool; nothing is flooded outside.
        persistence: basins that meet are one unless the lower top lies so much above the pass.
        least_area: basins of fewer pixels down to the pass are joined whatever their height.
    Returns:
        (H, W) int32 basins 1..n from the highest top down, 0 outside the mask; (n,) float64 height of their tops.
    """
    levels = np.rint(np.asarray(height, np.float64).ravel() * LEVELS).astype(np.int32)
    places = np.flatnonzero(mask)
    # 16-bit numbers are sorted in one pass over the pixels.
    order = places[np.argsort((LEVELS - levels[places]).astype(np.uint16), kind="stable")]
    labels = np.zeros(levels.shape, np.int32)
    parents, areas, tops = (np.zeros(len(places) + 1, np.int32) for _ in range(3))
    least = round(persistence * LEVELS)
    count = (_compiled_flood() or _flood)(order, levels, mask.shape[1], least, least_area, labels, parents, areas, tops)
    roots = parents[: count + 1]
    while not np.array_equal(roots, roots[roots]):
        roots = roots[roots]
    kept = np.flatnonzero(roots == np.arange(count + 1))[1:]
    numbers = np.zeros(count + 1, np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[roots][labels].reshape(mask.shape), tops[kept] / LEVELS


def _flood(
    order: Any, levels: Any, width: int, least: int, least_area: int, labels: Any, parents: Any, areas: Any, tops: Any
) -> int:
    """Label the pixels of `order`; basins are numbered as they begin, so that a lower number is a higher top."""
    height = len(levels) // width
    for place in range(len(labels)):
        labels[place] = 0
    count = 0
    parents[0] = 0
    meeting = [0, 0, 0, 0, 0, 0, 0, 0]
    for place in order:
        row, col = place // width, place % width
        own, best, met = 0, -1, 0
        for down in range(-1 if row > 0 else 0, 2 if row < height - 1 else 1):
            for right in range(-1 if col > 0 else 0, 2 if col < width - 1 else 1):
                beside = place + down * width + right
                root = labels[beside]
                if root == 0:
                    continue
                while parents[root] != root:
                    parents[root] = parents[parents[root]]
                    root = parents[root]
                meeting[met] = root
                met += 1
                if levels[beside] > best:
                    own, best = root, levels[beside]
        if own == 0:
            count += 1
            labels[place], parents[count], areas[count], tops[count] = count, count, 1, levels[place]
            continue
        labels[place] = own
        areas[own] += 1
        for index in range(met):
            other = meeting[index]
            while parents[other] != other:
                other = parents[other]
            if other == own:
                continue
            upper, lower = min(own, other), max(own, other)
            if tops[lower] - levels[place] < least or min(areas[lower], areas[upper]) < least_area:
                parents[lower] = upper
                areas[upper] += areas[lower]
                own = upper
    return count


@cache
def _compiled_flood() -> Any:
    return compile_loop(_flood)


def fill_holes(instance_map: NDArray[np.int32]) -> NDArray[np.int32]:
    """(H, W) with the background that one single object encloses given to that object.

    Background hangs together at sides; what touches the frame, or more than one object, stays.
    """
    holes, count = ndimage.label(instance_map == 0)
    is_open = np.zeros(count + 1, bool)
    for edge in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        is_open[edge] = True
    is_open[0] = True
    rows, cols = np.nonzero(~is_open[holes])
    if not len(rows):
        return instance_map
    owners = holes[rows, cols]
    least, most = np.full(count + 1, np.iinfo(np.int32).max, np.int32), np.zeros(count + 1, np.int32)
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = instance_map[rows + down, cols + right]
        at = beside > 0
        np.minimum.at(least, owners[at], beside[at])
        np.maximum.at(most, owners[at], beside[at])
    filled = instance_map.copy()
    filled[rows, cols] = np.where(least == most, most, 0)[owners]
    return filled
