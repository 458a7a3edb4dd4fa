"""Patches of volumes for training: every draw is a function of (seed, draw number) alone, as in `batches.py`.

Threads draw them, not processes: compiled loops and NumPy release the interpreter, and all threads share one cache of
volumes, of which a process each would hold a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch

from perpixel.data.batches import Batch, BatchDraws
from perpixel.data.repeats import pass_length, pass_order
from perpixel.data.volume_transforms import (
    Triple,
    VolumeAugmentation,
    change_values,
    draw_volume_geometry,
    draw_volume_values,
)
from perpixel.data.volume_warp import Patch, warp_volume
from perpixel.errors import InputError
from perpixel.images.resample import find_coarse_axis

# Voxels remembered per class and volume, as possible centres of patches.
CENTRES_PER_CLASS = 256
# Batches that threads draw ahead.
AHEAD = 2

Draw = tuple[np.ndarray, np.ndarray, str]


class LoadVolume(Protocol):
    """Gives the volume of a number: normalised, at the training spacing.

    image (C, D, H, W) float32 and label map (D, H, W) of class indices and `ignore_index`, the same at every call.
    """

    def __call__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(eq=False)
class VolumeCase:
    """One loaded volume with what drawing patches needs."""

    image: np.ndarray  # (C, D, H, W) float32
    label_map: np.ndarray  # (D, H, W) uint8 or int32
    centres: dict[int, np.ndarray]  # foreground class -> (n, 3) voxels

    @property
    def nbytes(self) -> int:
        return int(self.image.nbytes + self.label_map.nbytes)


class VolumeCrops:
    """(draw number, shrink) -> one augmented patch, at 1 / shrink of the resolution, with 1 / shrink of the sides.

    Of every n draws in a row at least floor(n x `foreground_share`) hold a voxel of a class above 0, as long as any
    volume does: the class is drawn from those in the volume, all alike, then one of its voxels. A volume without
    foreground leaves such a draw to the next one of the pass. Volumes smaller than the patch lie somewhere inside it.

    Args:
        load: the volume of a number; volumes are kept in memory up to `cache_bytes`.
        names: of the volumes, for messages.
        num_classes: K, background included; other values of label maps are no foreground.
        patch: (d, h, w) of every draw.
        spacing: of the voxels, in any unit.
        class_chances: (K,) relative chance of each class to be the one drawn; None = all alike.
        outside_label: of the target where a patch reaches out of its volume; the image is 0 there, its mean.
        repeats: (N,) how often each volume comes in a pass, 1 or more (see `data.repeats`); None = once.
    """

    def __init__(
        self,
        load: LoadVolume,
        names: Sequence[str],
        *,
        num_classes: int,
        patch: Patch,
        augmentation: VolumeAugmentation,
        seed: int,
        spacing: Triple = (1.0, 1.0, 1.0),
        foreground_share: float = 1 / 3,
        class_chances: Sequence[float] | None = None,
        outside_label: int = 0,
        repeats: Sequence[float] | np.ndarray | None = None,
        cache_bytes: int = 2**31,
    ) -> None:
        if not len(names):
            raise InputError("no volumes to draw patches from: give one or more")
        if len(patch) != 3 or min(patch) < 1:
            raise InputError(f"patch is {tuple(patch)}: give (depth, height, width), each 1 or more")
        if not 0 <= foreground_share <= 1:
            raise InputError(f"foreground_share is {foreground_share}: give a share from 0 to 1, such as 0.33")
        self.load, self.names, self.num_classes, self.patch = load, tuple(names), num_classes, patch
        self.augmentation, self.seed, self.spacing = augmentation, seed, spacing
        self.coarse = find_coarse_axis(spacing, spacing)
        self.foreground_share, self.outside_label = foreground_share, outside_label
        self.class_chances = None if class_chances is None else np.asarray(class_chances, np.float64)
        self.repeats = np.ones(len(self.names)) if repeats is None else np.asarray(repeats, np.float64)
        self.cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cache: dict[int, VolumeCase] = {}
        self._without_foreground: set[int] = set()
        self._lock = Lock()
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def case_of(self, draw: int) -> int:
        """Number of the volume of a draw: a fresh permutation for each pass over the data."""
        return int(self._order_at(draw)[0])

    def case(self, index: int) -> VolumeCase:
        """The loaded volume, from memory where it is kept."""
        found = self._cache.get(index)
        if found is None:
            found = self._load(index)
            with self._lock:
                if index not in self._cache and self._cached_bytes + found.nbytes <= self.cache_bytes:
                    self._cached_bytes += found.nbytes
                    self._cache[index] = found
        return found

    def __getitem__(self, key: tuple[int, int]) -> Draw:
        draw, shrink = key
        rng = np.random.default_rng([self.seed, 1, draw])
        index, case = self._choose(draw)
        sides = [max(1, side // shrink) if axis != self.coarse else side for axis, side in enumerate(self.patch)]
        patch = (sides[0], sides[1], sides[2])
        geometry = draw_volume_geometry(
            rng,
            self.augmentation,
            source=case.label_map.shape,
            patch=patch,
            spacing=self.spacing,
            centre=self._centre(case, rng) if self.needs_foreground(draw) else None,
            shrink=shrink,
        )
        image, target = warp_volume(case.image, case.label_map, geometry, patch, outside_label=self.outside_label)
        values = draw_volume_values(rng, self.augmentation, len(image))
        return change_values(image, values, rng=rng, coarse=self.coarse), target, self.names[index]

    def needs_foreground(self, draw: int) -> bool:
        """Whether this is one of the draws that hold foreground: evenly spread over the numbers, without chance."""
        before, after = (int(count * self.foreground_share + 1e-9) for count in (draw, draw + 1))
        return after > before

    def _order_at(self, draw: int) -> np.ndarray:
        """The volumes of the draw's pass from the draw's own on, then from the start."""
        epoch, place = divmod(draw, pass_length(self.repeats))
        order = self._order
        if order is None or order[0] != epoch:
            order = self._order = epoch, pass_order(self.repeats, seed=self.seed, epoch=epoch)
        return np.roll(order[1], -place)

    def _choose(self, draw: int) -> tuple[int, VolumeCase]:
        order = self._order_at(draw)
        if self.needs_foreground(draw):
            for index in order.tolist():
                if index in self._without_foreground:
                    continue
                case = self.case(index)
                if case.centres:
                    return index, case
                self._without_foreground.add(index)
        return int(order[0]), self.case(int(order[0]))

    def _centre(self, case: VolumeCase, rng: np.random.Generator) -> np.ndarray | None:
        ids = sorted(case.centres)
        if not ids:
            return None
        chances = np.ones(len(ids)) if self.class_chances is None else self.class_chances[ids]
        if not chances.any():
            chances = np.ones(len(ids))
        places = case.centres[ids[int(rng.choice(len(ids), p=chances / chances.sum()))]]
        return np.asarray(places[rng.integers(len(places))])

    def _load(self, index: int) -> VolumeCase:
        image, label_map = self.load(index)
        if image.ndim != 4 or image.shape[1:] != label_map.shape or image.size == 0:
            raise InputError(
                f"{self.names[index]}: image {image.shape} and label map {label_map.shape}: give (C, D, H, W) and "
                "(D, H, W) with voxels"
            )
        image = np.ascontiguousarray(image, np.float32)
        largest = int(label_map.max(initial=0))
        label_map = np.ascontiguousarray(label_map, np.uint8 if max(largest, self.outside_label) <= 255 else np.int32)
        rng = np.random.default_rng(0)
        centres = {}
        for value in range(1, min(self.num_classes, largest + 1)):
            places = np.flatnonzero(label_map == value)
            if len(places):
                chosen = rng.choice(places, min(CENTRES_PER_CLASS, len(places)), replace=False)
                centres[value] = np.stack(np.unravel_index(chosen, label_map.shape), axis=1)
        return VolumeCase(image, label_map, centres)


def collate_volumes(draws: Sequence[Draw]) -> Batch:
    """Stack draws: image (B, C, d, h, w) float32, target (B, d, h, w) int64."""
    image = torch.from_numpy(np.stack([image for image, _, _ in draws]))
    target = torch.from_numpy(np.stack([target for _, target, _ in draws]).astype(np.int64))
    if torch.cuda.is_available():
        image, target = image.pin_memory(), target.pin_memory()
    return Batch(image, target, [name for _, _, name in draws])


def volume_batches(
    crops: VolumeCrops,
    *,
    batch_size: int,
    start_step: int,
    end_step: int,
    shrink: int = 1,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """The batches of steps start_step..end_step-1, in order.

    Args:
        num_workers: threads that draw patches ahead; 0 draws them when they are asked for. The bits are the same.
    """
    steps = iter(
        BatchDraws(
            batch_size=batch_size,
            start_step=start_step,
            end_step=end_step,
            shrink=shrink,
            rank=rank,
            world_size=world_size,
        )
    )
    if num_workers < 1:
        for keys in steps:
            yield collate_volumes([crops[key] for key in keys])
        return
    pool, waiting = ThreadPoolExecutor(num_workers, thread_name_prefix="patches"), deque[list[Future[Draw]]]()
    try:
        for keys in steps:
            waiting.append([pool.submit(crops.__getitem__, key) for key in keys])
            if len(waiting) > AHEAD:
                yield collate_volumes([each.result() for each in waiting.popleft()])
        while waiting:
            yield collate_volumes([each.result() for each in waiting.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)
