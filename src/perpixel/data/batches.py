"""Batches for training: every draw is a function of (seed, draw number) alone.

So a run that is killed and resumed sees exactly the batches that it would have seen, whatever the number of workers,
and no generator state has to be saved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perpixel.data.dataset import Dataset
from perpixel.data.repeats import pass_length, pass_order
from perpixel.data.sample import Sample
from perpixel.data.transforms import Augmentation, draw_colour, draw_geometry, recolour, warp
from perpixel.images import Normalisation, resize_image

# Pixels remembered per class and image, as possible centres of crops for rare classes.
CENTRES_PER_CLASS = 32


@dataclass
class Batch:
    """What one training step takes.

    Attributes:
        image: (B, C, h, w) float32, channels_last.
        target: (B, h, w) int64 label map.
        names: sample names, for messages.
    """

    image: torch.Tensor
    target: torch.Tensor
    names: list[str]


@dataclass
class Source:
    """One decoded training image at working scale, with what drawing crops needs.

    The label map keeps its own size: reduced first and warped then, it would be rounded twice, and at half the scale
    every label would lie half a pixel off, since no pixel is nearest to a corner where four meet.
    """

    image: np.ndarray  # (h, w, C) raw values
    label_map: np.ndarray  # (H, W)
    low: np.ndarray  # (C,)
    high: np.ndarray
    centres: dict[int, np.ndarray]  # class -> (n, 2) rows and columns at working scale


def load_source(dataset: Dataset, sample: Sample, *, scale: float, normalisation: Normalisation) -> Source:
    """Read one sample and bring its image to the working scale."""
    image, label_map = dataset.load_image(sample), dataset.load_label_map(sample)
    if scale != 1.0:
        image = resize_image(image, scaled_size(image.shape[:2], scale))
    low, high = normalisation.limits(image)
    rng = np.random.default_rng(0)
    centres, factor = {}, np.array(image.shape[:2]) / label_map.shape
    for value in np.unique(label_map):
        if value < dataset.classes.num_classes:
            places = np.flatnonzero(label_map == value)
            chosen = rng.choice(places, min(CENTRES_PER_CLASS, len(places)), replace=False)
            centres[int(value)] = (np.stack(np.unravel_index(chosen, label_map.shape), axis=1) + 0.5) * factor - 0.5
    return Source(image, label_map, np.asarray(low, float), np.asarray(high, float), centres)


def scaled_size(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """(H, W) of an image at the working scale, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class TrainingCrops(TorchDataset):
    """(draw number, shrink) -> one augmented crop, at 1 / shrink of the working scale, with 1 / shrink of the sides.

    Decoded images are kept in memory up to `cache_bytes`.

    Args:
        crop: (h, w) of every draw, in pixels at the working scale.
        margin: extra pixels of true context on each side of the image (not of the target), for valid-padding nets.
        offset: how far label maps lie (below, right of) their images, in pixels at working scale; kept by every draw.
        fit_size: the smallest input (h, w) of the net, no smaller than the given one; valid-padding nets have it.
        rare_share: share of draws whose crop is placed on a class drawn from those in the image.
        class_chances: (K,) relative chance of each class to be the one drawn; None = all alike.
        repeats: (N,) how often each sample comes in a pass, 1 or more (see `data.repeats`); None = once.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: tuple[Sample, ...],
        *,
        crop: tuple[int, int],
        normalisation: Normalisation,
        augmentation: Augmentation,
        seed: int,
        scale: float = 1.0,
        margin: int = 0,
        offset: tuple[float, float] = (0.0, 0.0),
        fit_size: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
        rare_share: float = 0.0,
        class_chances: Sequence[float] | None = None,
        repeats: Sequence[float] | np.ndarray | None = None,
        cache_bytes: int = 2**31,
    ) -> None:
        self.dataset, self.samples, self.crop, self.scale = dataset, samples, crop, scale
        self.normalisation, self.augmentation = normalisation, augmentation
        self.offset = offset
        self.seed, self.margin, self.fit_size, self.rare_share = seed, margin, fit_size, rare_share
        self.class_chances = None if class_chances is None else np.asarray(class_chances, np.float64)
        self.repeats = np.ones(len(samples)) if repeats is None else np.asarray(repeats, np.float64)
        self.cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cache: OrderedDict[int, Source] = OrderedDict()
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def sample_of(self, draw: int) -> int:
        """Index of the sample of a draw: a fresh permutation for each pass over the data."""
        epoch, place = divmod(draw, pass_length(self.repeats))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, pass_order(self.repeats, seed=self.seed, epoch=epoch)
        return int(self._order[1][place])

    def source(self, index: int) -> Source:
        """The decoded sample, from memory where it is kept."""
        if index not in self._cache:
            found = load_source(self.dataset, self.samples[index], scale=self.scale, normalisation=self.normalisation)
            size = found.image.nbytes + found.label_map.nbytes
            if self._cached_bytes + size > self.cache_bytes:
                return found
            self._cached_bytes += size
            self._cache[index] = found
        return self._cache[index]

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, str]:
        draw, shrink = key
        index = self.sample_of(draw)
        source = self.source(index)
        rng = np.random.default_rng([self.seed, 1, draw])
        around = 2 * self.margin
        padded = max(1, self.crop[0] // shrink) + around, max(1, self.crop[1] // shrink) + around
        if self.fit_size is not None:
            padded = self.fit_size(padded)
        centre = self._centre(source, rng) if source.centres and rng.random() < self.rare_share else None
        geometry = draw_geometry(
            rng, self.augmentation, source=source.image.shape[:2], crop=padded, centre=centre, shrink=shrink
        )
        image = warp(source.image, geometry, padded)
        beside = geometry.keeping(self.offset).on(source.image.shape[:2], source.label_map.shape)
        target = warp(source.label_map, beside, padded, nearest=True)
        if self.margin:
            target = target[self.margin : -self.margin, self.margin : -self.margin]
        colour = draw_colour(rng, self.augmentation, image.shape[2])
        image = recolour(
            image,
            colour,
            low=source.low,
            high=source.high,
            mean=np.asarray(self.normalisation.mean),
            std=np.asarray(self.normalisation.std),
            rng=rng,
        )
        return image, target, self.samples[index].name

    def _centre(self, source: Source, rng: np.random.Generator) -> tuple[float, float] | None:
        """(row, col) of a pixel of a class drawn from those in the image; None if none of them has a chance."""
        ids = sorted(source.centres)
        if self.class_chances is None:
            drawn = int(rng.integers(len(ids)))
        else:
            chances = self.class_chances[ids]
            if not chances.any():
                return None
            drawn = int(rng.choice(len(ids), p=chances / chances.sum()))
        places = source.centres[ids[drawn]]
        row, col = places[rng.integers(len(places))]
        return row, col


def collate(draws: list[tuple[np.ndarray, np.ndarray, str]]) -> Batch:
    """Stack draws; (B, h, w, C) memory seen as (B, C, h, w) is channels_last without a copy."""
    image = torch.from_numpy(np.stack([image for image, _, _ in draws])).permute(0, 3, 1, 2)
    target = torch.from_numpy(np.stack([target for _, target, _ in draws]).astype(np.int64))
    return Batch(image, target, [name for _, _, name in draws])


class BatchDraws:
    """Batch sampler: the draws of each step from `start_step` on, the share of this rank only."""

    def __init__(
        self, *, batch_size: int, start_step: int, end_step: int, shrink: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size, self.start_step, self.end_step, self.shrink = batch_size, start_step, end_step, shrink
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(0, self.end_step - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.end_step):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [(draw, self.shrink) for draw in range(first, first + self.batch_size)]


def batches(
    crops: TrainingCrops,
    *,
    batch_size: int,
    start_step: int,
    end_step: int,
    shrink: int = 1,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
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
        crops,
        batch_sampler=draws,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
    )
    return iter(loader)
