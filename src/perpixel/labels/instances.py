"""The objects of an image: class, box, mask and score of each, small enough for thousands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.compiled import compile_loop
from perpixel.errors import InputError
from perpixel.labels.overlap import overlaps
from perpixel.labels.rle import Ints, Runs, merge_spans

Floats = NDArray[np.float64]

# Class of a crowd that is no class: nothing is known of its pixels, so that nothing found there is wrong.
VOID = 0


@dataclass(frozen=True, eq=False)
class Instances:
    """The N objects of one image, in any order; they may overlap.

    Attributes:
        classes: (N,) int64 indices in the class table. 0 is background there: only a crowd may have it (`VOID`).
        boxes: (N, 4) float64 x0 y0 x1 y1 in pixels, as the annotation states them, else around the mask.
        masks: the pixels of each.
        is_crowd: (N,) bool; a region of many objects that are not told apart: neither learnt nor scored.
        areas: (N,) float64 in pixels, as the annotation states them, else counted; sizes are told by them.
        scores: (N,) float64 of what was predicted, None for truths.
    """

    classes: Ints
    boxes: Floats
    masks: Runs
    is_crowd: NDArray[np.bool_]
    areas: Floats
    scores: Floats | None = None

    def __post_init__(self) -> None:
        count = len(self.masks)
        shapes = {
            "classes": (self.classes, (count,)),
            "boxes": (self.boxes, (count, 4)),
            "is_crowd": (self.is_crowd, (count,)),
            "areas": (self.areas, (count,)),
            **({} if self.scores is None else {"scores": (self.scores, (count,))}),
        }
        for name, (values, shape) in shapes.items():
            if values.shape != shape:
                raise InputError(f"{name} has shape {values.shape}, but there are {count} masks: give {shape}")

    @classmethod
    def of(
        cls,
        masks: Runs,
        classes: ArrayLike = 1,
        *,
        boxes: ArrayLike | None = None,
        is_crowd: ArrayLike = False,
        areas: ArrayLike | None = None,
        scores: ArrayLike | None = None,
    ) -> Instances:
        """Objects of these masks; one class or crowd flag is that of all; boxes and areas are measured by default."""
        count = len(masks)
        return cls(
            np.broadcast_to(np.asarray(classes, np.int64), (count,)).copy(),
            masks.boxes.astype(np.float64) if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4),
            masks,
            np.broadcast_to(np.asarray(is_crowd, bool), (count,)).copy(),
            masks.areas.astype(np.float64) if areas is None else np.asarray(areas, np.float64),
            None if scores is None else np.asarray(scores, np.float64),
        )

    @classmethod
    def none(cls, size: tuple[int, int]) -> Instances:
        """An image (H, W) without objects."""
        return cls.of(Runs.join(size, []))

    @classmethod
    def from_label_map(
        cls, instance_map: Any, classes: int | Mapping[int, int] = 1, *, scores: Mapping[int, float] | None = None
    ) -> Instances:
        """The objects of an instance map (H, W), in the order of their numbers; 0 is background.

        Args:
            classes: of all, or by number.
            scores: by number.
        Raises:
            InputError: values that are not whole numbers, or below 0.
        """
        masks, numbers = runs_of_label_map(instance_map)
        found = [classes if isinstance(classes, int) else classes[int(number)] for number in numbers]
        given = None if scores is None else [scores[int(number)] for number in numbers]
        return cls.of(masks, np.array(found, np.int64), scores=given)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.masks.size

    def take(self, indices: ArrayLike) -> Instances:
        """The objects of these numbers, in this order; a bool array keeps those that are True."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        scores = None if self.scores is None else self.scores[chosen]
        return Instances(
            self.classes[chosen],
            self.boxes[chosen],
            self.masks.take(chosen),
            self.is_crowd[chosen],
            self.areas[chosen],
            scores,
        )

    def without_crowds(self) -> Instances:
        """Only the single objects."""
        return self.take(~self.is_crowd) if self.is_crowd.any() else self

    def painting_order(self) -> Ints:
        """Numbers in the order in which they are painted over each other: low scores first, then large ones first."""
        scores = np.zeros(len(self)) if self.scores is None else self.scores
        return np.lexsort((np.arange(len(self)), -self.masks.areas, scores))

    def to_label_map(self) -> NDArray[Any]:
        """(H, W) with object i as number i + 1, 0 outside; crowds are left out. int32 where uint16 is too small.

        Where objects overlap, a higher score lies on top, then the smaller object.
        """
        dtype = np.uint16 if len(self) <= np.iinfo(np.uint16).max else np.int32
        order = self.painting_order()
        return self.masks.paint(order[~self.is_crowd[order]], np.arange(1, len(self) + 1)).astype(dtype)

    def without_overlaps(self) -> Instances:
        """Each pixel kept by one object only, as `to_label_map` paints them; what is wholly covered is left out.

        Boxes and areas are measured anew, crowds are left out.
        """
        masks, numbers = runs_of_label_map(self.to_label_map())
        kept = numbers - 1
        return Instances.of(masks, self.classes[kept], scores=None if self.scores is None else self.scores[kept])


def runs_of_label_map(instance_map: Any) -> tuple[Runs, Ints]:
    """The objects of an instance map (H, W), 0 is background: their masks and their numbers, rising.

    Raises:
        InputError: not (H, W), values that are not whole numbers, or below 0.
    """
    array = np.asarray(instance_map)
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(f"an instance map of shape {array.shape}, {array.dtype}: give (H, W) whole numbers")
    size = (array.shape[0], array.shape[1])
    flat = array.T.ravel()
    if not flat.size:
        return Runs.join(size, []), np.zeros(0, np.int64)
    if flat.dtype.kind == "i" and int(flat.min()) < 0:
        raise InputError(f"an instance map holds {int(flat.min())}: number the objects from 1, background is 0")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], turns, [flat.size]])
    values = flat[edges[:-1]].astype(np.int64)
    on = np.flatnonzero(values)
    on = on[np.argsort(values[on], kind="stable")]
    numbers, counts = np.unique(values[on], return_counts=True)
    spans = np.stack([edges[on], edges[on + 1]], axis=1).astype(np.int64)
    return Runs(size, spans, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)), numbers


def is_in_contact(instances: Instances, *, gap: int = 1) -> NDArray[np.bool_]:
    """(N,) bool: whether an object touches or overlaps another one; crowds neither do nor count.

    Args:
        gap: objects with up to so many pixels between them are in contact: annotators often leave a line of one pixel.
            0 is neighbours only, corners included.
    """
    singles = np.flatnonzero(~instances.is_crowd)
    found = np.zeros(len(instances), bool)
    rest = instances.take(singles)
    meets = np.zeros(len(rest) + 1, np.bool_)
    label_map = rest.to_label_map().astype(np.int32)  # one form of the loop is compiled
    (_compiled_meet() or _meet_numpy)(label_map, gap + 1, meets)
    found[singles] = meets[1:]
    # Painting hides an object's pixels under another one.
    first, second, _ = overlaps(rest.masks, rest.masks)
    found[singles[first[first != second]]] = True
    return found


def _meet(label_map: Any, reach: int, meets: Any) -> None:
    """Mark the numbers of objects that have another one within `reach` rows and columns."""
    height, width = label_map.shape
    for row in range(height):
        for col in range(width):
            label = label_map[row, col]
            if label == 0:
                continue
            for down in range(min(reach + 1, height - row)):
                for right in range(max(-reach, -col) if down else 1, min(reach + 1, width - col)):
                    other = label_map[row + down, col + right]
                    if other != 0 and other != label:
                        meets[label] = True
                        meets[other] = True


@cache
def _compiled_meet() -> Any:
    return compile_loop(_meet)


def _meet_numpy(label_map: Any, reach: int, meets: Any) -> None:
    height, width = label_map.shape
    for down in range(min(reach + 1, height)):
        for right in range(-reach if down else 1, reach + 1):
            if abs(right) >= width:
                continue
            above = label_map[: height - down, max(0, -right) : width - max(0, right)]
            below = label_map[down:, max(0, right) : width - max(0, -right)]
            meet = (above != below) & (above != 0) & (below != 0)
            meets[above[meet]] = True
            meets[below[meet]] = True


def outline_map(instances: Instances) -> NDArray[Any]:
    """(H, W) as `to_label_map`, but only the outermost pixels of each object (4 neighbours; the frame has none)."""
    label_map = instances.to_label_map()
    inside = np.ones(label_map.shape, bool)
    inside[1:] &= label_map[1:] == label_map[:-1]
    inside[:-1] &= label_map[1:] == label_map[:-1]
    inside[:, 1:] &= label_map[:, 1:] == label_map[:, :-1]
    inside[:, :-1] &= label_map[:, 1:] == label_map[:, :-1]
    return np.where(inside, 0, label_map).astype(label_map.dtype)


def join_instances(parts: Sequence[Instances]) -> Instances:
    """The objects of several parts of one image (sizes are equal) side by side; scores only where all have them."""
    sizes = {part.size for part in parts}
    if len(sizes) != 1:
        raise InputError(f"objects of images of {len(sizes)} different sizes: join those of one image")
    masks = Runs.join(sizes.pop(), [part.masks.of(index) for part in parts for index in range(len(part))])
    scores = [part.scores for part in parts if part.scores is not None]
    return Instances(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        masks,
        np.concatenate([part.is_crowd for part in parts]),
        np.concatenate([part.areas for part in parts]),
        np.concatenate(scores) if len(scores) == len(parts) else None,
    )


def union_of(masks: Runs) -> Runs:
    """One mask: all of them together."""
    return Runs.join(masks.size, [merge_spans(masks.spans)])
