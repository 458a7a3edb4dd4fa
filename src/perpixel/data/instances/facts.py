"""What decides between ways to find objects: how many there are in an image, how large, how alike in size, how often
in contact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perpixel.data.instances.dataset import InstanceDataset
from perpixel.data.object_facts import InstanceFacts
from perpixel.data.threads import map_threads
from perpixel.labels import Instances, is_in_contact, overlaps

# COCO's bound of what is small.
SMALL_AREA = 32**2


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """The objects of one image; crowds are left out.

    Attributes:
        areas: (N,) pixels of each.
        in_contact: (N,) whether each touches or overlaps another one, or has one pixel between.
        at_frame: (N,) whether each reaches the image's frame, where it may be cut.
        overlapped: (N,) whether each shares a pixel with another one.
        size: (H, W).
        sides: (N, 2) height and width of the box around the pixels of each.
    """

    areas: NDArray[np.int64]
    in_contact: NDArray[np.bool_]
    at_frame: NDArray[np.bool_]
    overlapped: NDArray[np.bool_]
    size: tuple[int, int]
    sides: NDArray[np.int64]


def measure_objects(instances: Instances) -> ImageFacts:
    """The facts of one image."""
    singles = instances.without_crowds()
    boxes, (height, width) = singles.masks.boxes, singles.size
    at_frame = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2] == width) | (boxes[:, 3] == height)
    first, second, _ = overlaps(singles.masks, singles.masks)
    overlapped = np.zeros(len(singles), bool)
    overlapped[first[first != second]] = True
    sides = (boxes[:, 2:] - boxes[:, :2])[:, ::-1]
    return ImageFacts(singles.masks.areas, is_in_contact(singles), at_frame, overlapped, singles.size, sides)


def sum_facts(rows: Iterable[ImageFacts]) -> InstanceFacts:
    """The facts of several images together."""
    parts = list(rows)
    counts = [len(part.areas) for part in parts]
    areas = np.concatenate([np.zeros(0), *(part.areas for part in parts)])
    pixels = np.concatenate([np.zeros(0), *(np.full(len(p.areas), p.size[0] * p.size[1]) for p in parts)])
    sides = np.sqrt(areas)
    low, high = np.percentile(sides, (10, 90)) if len(sides) else (1.0, 1.0)
    boxes = np.concatenate([np.zeros((0, 2)), *(part.sides for part in parts)])
    boxes = boxes[boxes.all(axis=1)]
    small, large = np.percentile(np.sqrt(boxes.prod(axis=1)), (5, 95)) if len(boxes) else (0.0, 0.0)
    flat, tall = np.percentile(boxes[:, 0] / boxes[:, 1], (10, 90)) if len(boxes) else (1.0, 1.0)

    def share(name: str) -> float:
        hits = sum(int(getattr(part, name).sum()) for part in parts)
        return hits / len(areas) if len(areas) else 0.0

    return InstanceFacts(
        images=len(parts),
        empty_images=sum(count == 0 for count in counts),
        objects=len(areas),
        objects_per_image=float(np.median(counts)) if counts else 0.0,
        most_objects=max(counts, default=0),
        median_area=_median(areas),
        median_side=_median(sides),
        size_spread=float(high / low) if low else 1.0,
        small_share=float((areas < SMALL_AREA).mean()) if len(areas) else 0.0,
        contact_share=share("in_contact"),
        overlap_share=share("overlapped"),
        frame_share=share("at_frame"),
        relative_side=_median(sides / np.sqrt(pixels)),
        small_box=float(small),
        large_box=float(large),
        flat_box=float(flat),
        tall_box=float(tall),
    )


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def find_facts(dataset: InstanceDataset, split: str = "train", *, workers: int | None = None) -> InstanceFacts:
    """The facts of one split.

    Raises:
        InputError: no such split, or objects that cannot be read.
    """
    rows = map_threads(lambda sample: measure_objects(dataset.load_instances(sample)), dataset.split(split), workers)
    return sum_facts(rows)
