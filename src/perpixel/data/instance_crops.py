"""Batches of images with their objects, for training: every draw is a function of (seed, draw number) alone.

Objects are warped as layers of numbers: one layer holds all objects of an image that do not overlap, so that a crop
of a hundred nuclei costs one warp, not a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perpixel.data.batches import BatchDraws, scaled_size
from perpixel.data.instances import InstanceDataset
from perpixel.data.repeats import pass_length, pass_order
from perpixel.data.sample import Sample
from perpixel.data.transforms import Augmentation, Geometry, draw_colour, draw_geometry, recolour, source_places, warp
from perpixel.errors import InputError
from perpixel.images import Normalisation, resize_image
from perpixel.labels import Instances, overlaps

# An object of which a crop shows fewer pixels is left out: nobody could say what it is.
LEAST_PIXELS = 4
# Reflections on each side that are told apart; crops that reach further are far larger than their image.
MOST_MIRRORS = 100


@dataclass
class DrawnObjects:
    """The objects of one crop.

    Attributes:
        layers: (L, h, w) int32; number i marks the pixels of object i = 1..n, 0 is none. Objects that overlap lie in
            different layers; L is 1 where none do.
        classes: (n,) int64 class of object i at i - 1; 0 only where nothing is known of a crowd's pixels.
        is_crowd: (n,) bool.
    """

    layers: Tensor
    classes: Tensor
    is_crowd: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def masks(self) -> Tensor:
        """(n, h, w) bool."""
        found = torch.zeros((len(self), *self.layers.shape[1:]), dtype=torch.bool)
        layer, row, col = torch.nonzero(self.layers, as_tuple=True)
        found[self.layers[layer, row, col].long() - 1, row, col] = True
        return found

    def boxes(self) -> Tensor:
        """(n, 4) float32 x0 y0 x1 y1 around the pixels, x1 and y1 one past the last."""
        boxes = torch.zeros((len(self), 4), dtype=torch.float32)
        for layer in self.layers.numpy():
            for index, places in enumerate(ndimage.find_objects(layer, len(self))):
                if places is not None:
                    rows, cols = places
                    boxes[index] = torch.tensor([cols.start, rows.start, cols.stop, rows.stop])
        return boxes


@dataclass
class InstanceBatch:
    """What one training step takes.

    Attributes:
        image: (B, C, h, w) float32, channels_last.
        objects: B of them.
        names: sample names, for messages.
    """

    image: Tensor
    objects: list[DrawnObjects]
    names: list[str]


@dataclass
class ObjectsSource:
    """One decoded image at working scale with its objects at the size of their annotation."""

    image: np.ndarray  # (h, w, C) raw values
    layers: np.ndarray  # (L, H, W) uint16, or float32 where there are more objects than that counts
    instances: Instances
    low: np.ndarray  # (C,)
    high: np.ndarray

    @property
    def nbytes(self) -> int:
        return int(self.image.nbytes + self.layers.nbytes)


def paint_layers(instances: Instances) -> np.ndarray:
    """(L, H, W) uint16 (float32 from 65,536 objects on): object i as i + 1 in the first layer that is free for it."""
    count, masks = len(instances), instances.masks
    # OpenCV warps no 32-bit whole numbers; float32 is exact up to 2^24.
    dtype = np.uint16 if count <= np.iinfo(np.uint16).max else np.float32
    numbers = np.arange(1, count + 1)
    painted = masks.paint(np.arange(count), numbers)
    if np.count_nonzero(painted) == masks.areas.sum():
        return painted.astype(dtype)[None]  # nothing was painted over
    first, second, _ = overlaps(masks, masks)
    layer_of = np.zeros(count, np.int64)
    for index in np.unique(first[second < first]).tolist():
        taken = set(layer_of[second[(first == index) & (second < index)]].tolist())
        layer_of[index] = next(layer for layer in range(len(taken) + 1) if layer not in taken)
    layers = range(int(layer_of.max()) + 1)
    return np.stack([masks.paint(np.flatnonzero(layer_of == one), numbers).astype(dtype) for one in layers])


def load_objects(
    dataset: InstanceDataset, sample: Sample, *, scale: float, normalisation: Normalisation
) -> ObjectsSource:
    """Read one sample and bring its image to the working scale."""
    image, instances = dataset.load(sample)
    if scale != 1.0:
        image = resize_image(image, scaled_size(image.shape[:2], scale))
    low, high = normalisation.limits(image)
    return ObjectsSource(image, paint_layers(instances), instances, np.asarray(low, float), np.asarray(high, float))


class InstanceCrops(TorchDataset):
    """(draw number, shrink) -> one augmented crop, at 1 / shrink of the working scale, with 1 / shrink of the sides.

    What lies outside an image is its mirror image, with the mirrored objects as objects of their own; where an object
    is cut by the frame, it and its reflection are one. Decoded images are kept in memory up to `cache_bytes`.

    Args:
        crop: (h, w) of every draw, in pixels at the working scale.
        object_share: share of draws placed on an object: a class drawn from those in the image, one of its objects.
        least_pixels: objects of which the crop shows fewer are left out.
        repeats: (N,) how often each sample comes in a pass, 1 or more (see `data.repeats`); None = once.
    """

    def __init__(
        self,
        dataset: InstanceDataset,
        samples: tuple[Sample, ...],
        *,
        crop: tuple[int, int],
        normalisation: Normalisation,
        augmentation: Augmentation,
        seed: int,
        scale: float = 1.0,
        object_share: float = 0.5,
        least_pixels: int = LEAST_PIXELS,
        repeats: Sequence[float] | np.ndarray | None = None,
        cache_bytes: int = 2**31,
    ) -> None:
        if not samples:
            raise InputError("no images to draw crops from: give one or more")
        if not 0 <= object_share <= 1:
            raise InputError(f"object_share is {object_share}: give a share from 0 to 1, such as 0.5")
        self.dataset, self.samples, self.crop, self.scale = dataset, samples, crop, scale
        self.normalisation, self.augmentation, self.seed = normalisation, augmentation, seed
        self.object_share, self.least_pixels = object_share, max(1, least_pixels)
        self.repeats = np.ones(len(samples)) if repeats is None else np.asarray(repeats, np.float64)
        self.cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cache: dict[int, ObjectsSource] = {}
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def sample_of(self, draw: int) -> int:
        """Index of the sample of a draw: a fresh permutation for each pass over the data."""
        epoch, place = divmod(draw, pass_length(self.repeats))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, pass_order(self.repeats, seed=self.seed, epoch=epoch)
        return int(self._order[1][place])

    def source(self, index: int) -> ObjectsSource:
        """The decoded sample, from memory where it is kept."""
        if index not in self._cache:
            sample = self.samples[index]
            found = load_objects(self.dataset, sample, scale=self.scale, normalisation=self.normalisation)
            if self._cached_bytes + found.nbytes > self.cache_bytes:
                return found
            self._cached_bytes += found.nbytes
            self._cache[index] = found
        return self._cache[index]

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, DrawnObjects, str]:
        draw, shrink = key
        index = self.sample_of(draw)
        source = self.source(index)
        rng = np.random.default_rng([self.seed, 1, draw])
        crop = max(1, self.crop[0] // shrink), max(1, self.crop[1] // shrink)
        size = source.image.shape[:2]
        centre = draw_place(source, rng) if rng.random() < self.object_share else None
        geometry = draw_geometry(rng, self.augmentation, source=size, crop=crop, centre=centre, shrink=shrink)
        image = warp(source.image, geometry, crop)
        image = recolour(
            image,
            draw_colour(rng, self.augmentation, image.shape[2]),
            low=source.low,
            high=source.high,
            mean=np.asarray(self.normalisation.mean),
            std=np.asarray(self.normalisation.std),
            rng=rng,
        )
        objects = warp_objects(source, geometry.on(size, source.layers.shape[1:]), crop, least_pixels=self.least_pixels)
        return image, objects, self.samples[index].name


def draw_place(source: ObjectsSource, rng: np.random.Generator) -> tuple[float, float] | None:
    """(row, col) at working scale of a pixel of a drawn object; None where there is none."""
    instances = source.instances
    singles = np.flatnonzero(~instances.is_crowd & (instances.masks.areas > 0))
    if not len(singles):
        return None
    kind = rng.choice(np.unique(instances.classes[singles]))
    spans = instances.masks.of(int(rng.choice(singles[instances.classes[singles] == kind])))
    ends = np.cumsum(spans[:, 1] - spans[:, 0])
    place = int(rng.integers(ends[-1]))
    span = int(np.searchsorted(ends, place, side="right"))
    pixel = spans[span, 1] - (ends[span] - place)
    col, row = divmod(int(pixel), instances.size[0])
    rows, cols = (side / full for side, full in zip(source.image.shape[:2], instances.size))
    return (row + 0.5) * rows - 0.5, (col + 0.5) * cols - 0.5


def warp_objects(
    source: ObjectsSource, geometry: Geometry, crop: tuple[int, int], *, least_pixels: int = LEAST_PIXELS
) -> DrawnObjects:
    """The objects as a drawn warp of their layers shows them, numbered anew."""
    layers = np.stack([warp(layer, geometry, crop, nearest=True) for layer in source.layers])
    numbers, owners = layers.astype(np.int64), np.arange(-1, len(source.instances))
    mirrors = _mirrors(geometry, source.layers.shape[1:], crop)
    if mirrors is not None:
        numbers, owners = _part_reflections(numbers, mirrors, source.instances)
    counts = np.bincount(numbers.ravel(), minlength=len(owners))
    counts[0] = 0
    kept = np.flatnonzero(counts >= least_pixels)
    new = np.zeros(len(owners), np.int32)
    new[kept] = np.arange(1, len(kept) + 1)
    drawn = new[numbers]
    if len(drawn) > 1:
        drawn = drawn[np.concatenate([[True], drawn[1:].any(axis=(1, 2))])]
    chosen = owners[kept]
    classes, is_crowd = source.instances.classes[chosen], source.instances.is_crowd[chosen]
    return DrawnObjects(torch.from_numpy(drawn), torch.from_numpy(classes), torch.from_numpy(is_crowd))


def _mirrors(geometry: Geometry, size: tuple[int, ...], crop: tuple[int, int]) -> list[np.ndarray] | None:
    """(h, w) int64 of rows and of columns: how many reflections each pixel lies away; None where all lie inside."""
    cols, rows = source_places(geometry, crop)
    ends = [(np.rint(places).astype(np.int64), side - 1) for places, side in ((rows, size[0]), (cols, size[1]))]
    if all(places.min() >= 0 and places.max() <= last for places, last in ends):
        return None
    # The pixels at the frame are not repeated by the reflection, so that its period is one less.
    away = [places // last if last else np.zeros_like(places) for places, last in ends]
    return [np.clip(each, -MOST_MIRRORS, MOST_MIRRORS) for each in away]


def _part_reflections(
    numbers: np.ndarray, mirrors: list[np.ndarray], instances: Instances
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that differ between an object and its reflections, 0 for background, and the object of each number."""
    places = np.nonzero(numbers)
    found = numbers[places]
    boxes, keys = instances.masks.boxes[found - 1], found
    for axis, (away, last) in enumerate(zip(mirrors, instances.size, strict=True)):
        # Cut at the first or the last row, an object hangs together with every second reflection, or with all.
        at_start, at_end = boxes[:, 1 - axis] == 0, boxes[:, 3 - axis] == last
        copy = away[places[1:]]
        copy = np.where(at_start & at_end, 0, np.where(at_start, (copy + 1) // 2, np.where(at_end, copy // 2, copy)))
        keys = keys * (2 * MOST_MIRRORS + 2) + copy + MOST_MIRRORS
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    renumbered = np.zeros_like(numbers)
    renumbered[places] = inverse + 1
    return renumbered, np.concatenate([[-1], found[first] - 1])


def collate_objects(draws: Sequence[tuple[np.ndarray, DrawnObjects, str]]) -> InstanceBatch:
    """Stack draws; (B, h, w, C) memory seen as (B, C, h, w) is channels_last without a copy."""
    image = torch.from_numpy(np.stack([image for image, _, _ in draws])).permute(0, 3, 1, 2)
    return InstanceBatch(image, [objects for _, objects, _ in draws], [name for _, _, name in draws])


def instance_batches(
    crops: InstanceCrops,
    *,
    batch_size: int,
    start_step: int,
    end_step: int,
    shrink: int = 1,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[InstanceBatch]:
    """The batches of steps start_step..end_step-1, in order."""
    draws = BatchDraws(
        batch_size=batch_size,
        start_step=start_step,
        end_step=end_step,
        shrink=shrink,
        rank=rank,
        world_size=world_size,
    )
    loader: DataLoader = DataLoader(
        crops, batch_sampler=draws, collate_fn=collate_objects, num_workers=num_workers, persistent_workers=False
    )
    return iter(loader)
