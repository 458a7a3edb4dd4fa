"""What a data set is like, in numbers: gathered image by image, in memory that does not grow with the pixels."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import MISSING, asdict, dataclass, field
from typing import Any

import numpy as np

from perpixel.data.object_facts import InstanceFacts
from perpixel.data.volume_facts import VolumeFingerprint
from perpixel.errors import InputError

# Values kept of each float image, per channel; whole numbers are counted exactly.
FLOAT_VALUES_PER_IMAGE = 2048
LOW_PERCENT, HIGH_PERCENT = 0.5, 99.5


@dataclass(frozen=True)
class Fingerprint:
    """The facts that planning and reports need.

    Facts about values (`value_low` ... `std`) are those of the train split where there is one, per channel, in the
    units of the files, every pixel counting alike.

    Attributes:
        num_images: per split, unlabelled included.
        sizes: "min", "median" and "max" as [height, width], of volumes [depth, height, width]; each side on its own.
        dtype: that of the images ("uint8", "uint16", "float32"; of volumes "int16" too); the widest where mixed.
        value_low, value_high: 0.5 and 99.5 percentiles.
        class_pixels, class_images: per split, pixels and images of each class.
        imbalance: pixels of the most frequent class over those of the least frequent that occurs, in train.
        groups: number of different groups; 0 without groups.
        digest: SHA-256 over names, sizes, pixels and label maps in order.
        spatial_dims: 2 for images, 3 for volumes.
        volumes: what else is known of volumes; None for images, and where no volume could be read.
        instances: what is known of the objects of the train split; None for label maps.
    """

    format: str
    num_images: dict[str, int]
    sizes: dict[str, list[int]]
    channels: int
    dtype: str
    value_low: list[float]
    value_high: list[float]
    value_min: list[float]
    value_max: list[float]
    mean: list[float]
    std: list[float]
    class_names: list[str]
    class_pixels: dict[str, list[int]]
    ignored_pixels: dict[str, int]
    class_images: dict[str, list[int]]
    imbalance: float
    groups: int
    digest: str
    spatial_dims: int = 2
    volumes: VolumeFingerprint | None = None
    instances: InstanceFacts | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Fingerprint:
        """Read what `to_json` wrote.

        Raises:
            InputError: keys are missing or unknown.
        """
        fields = cls.__dataclass_fields__
        needed = {name for name, each in fields.items() if each.default is MISSING}
        wrong = sorted((needed - set(content)) | (set(content) - set(fields)))
        if wrong:
            raise InputError(f"fingerprint: keys missing or unknown: {', '.join(wrong)}: run perpixel check again")
        parts = {"volumes": VolumeFingerprint.from_json, "instances": InstanceFacts.from_json}
        read = {name: make(content[name]) for name, make in parts.items() if content.get(name) is not None}
        return cls(**{**content, **read})


@dataclass(frozen=True)
class ChannelValues:
    """The values of one channel of one image.

    Attributes:
        counts: (N,) histogram of whole numbers from 0, or None for floats.
        drawn: (M,) float values that stand for all `size` pixels, or None for whole numbers.
    """

    size: int
    low: float
    high: float
    total: float
    squares: float
    counts: np.ndarray | None
    drawn: np.ndarray | None


def channel_values(image: np.ndarray) -> list[ChannelValues]:
    """Summarise each channel of an (H, W, C) image."""
    return [_one_channel(np.ascontiguousarray(image[:, :, index]).ravel()) for index in range(image.shape[2])]


def _one_channel(values: np.ndarray) -> ChannelValues:
    if values.dtype in (np.uint8, np.uint16):
        counts = np.bincount(values)
        levels = np.arange(len(counts), dtype=np.float64)
        held = np.flatnonzero(counts)
        total, squares = float(counts @ levels), float(counts @ levels**2)
        return ChannelValues(values.size, float(held[0]), float(held[-1]), total, squares, counts, None)
    wide = values.astype(np.float64)
    # An even stride through the pixels is repeatable and as good as a random draw here.
    drawn = values[:: max(1, values.size // FLOAT_VALUES_PER_IMAGE)].astype(np.float32)
    return ChannelValues(
        values.size, float(wide.min()), float(wide.max()), float(wide.sum()), float(wide @ wide), None, drawn
    )


@dataclass
class ValueTally:
    """Running statistics of one channel."""

    size: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    squares: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    drawn: list[np.ndarray] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, values: ChannelValues) -> None:
        """Take in one image."""
        self.size += values.size
        self.low, self.high = min(self.low, values.low), max(self.high, values.high)
        self.total += values.total
        self.squares += values.squares
        if values.counts is not None:
            if len(values.counts) > len(self.counts):
                self.counts = np.pad(self.counts, (0, len(values.counts) - len(self.counts)))
            self.counts[: len(values.counts)] += values.counts
        if values.drawn is not None:
            self.drawn.append(values.drawn)
            self.weights.append(values.size / len(values.drawn))

    @property
    def mean(self) -> float:
        return self.total / self.size if self.size else 0.0

    @property
    def std(self) -> float:
        # Cancellation in squares - mean^2 can fall just below zero.
        return float(np.sqrt(max(0.0, self.squares / self.size - self.mean**2))) if self.size else 0.0

    def percentile(self, percent: float) -> float:
        """The smallest value at or below which `percent` of all pixels lie."""
        if self.size == 0:
            return 0.0
        held = np.flatnonzero(self.counts)
        values = np.concatenate([held.astype(np.float64), *(part.astype(np.float64) for part in self.drawn)])
        weights = np.concatenate(
            [self.counts[held].astype(np.float64), *(np.full(len(p), w) for p, w in zip(self.drawn, self.weights))]
        )
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order])
        place = int(np.searchsorted(reached, percent / 100 * reached[-1]))
        return float(values[order][min(place, len(values) - 1)])


@dataclass(frozen=True)
class SampleFacts:
    """The facts of one readable image, and of its label map where it has one.

    Attributes:
        image_digest: SHA-256 of shape, dtype and pixels.
        mask_digest: SHA-256 of the label map, empty without one.
        class_pixels: (K,) counts, or None without a usable label map.
    """

    size: tuple[int, ...]
    channels: int
    dtype: str
    values: list[ChannelValues]
    image_digest: str
    mask_digest: str = ""
    class_pixels: np.ndarray | None = None
    ignored: int = 0


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's shape, dtype and values."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class FingerprintTally:
    """Takes in samples one after the other and makes the fingerprint at the end."""

    def __init__(self, class_names: list[str], value_split: str | None) -> None:
        """`value_split`: the split whose values are described; None = all of them."""
        self.class_names = class_names
        self.value_split = value_split
        self.sizes: list[tuple[int, ...]] = []
        self.channels: Counter[int] = Counter()
        self.dtypes: Counter[str] = Counter()
        self.values: dict[int, list[ValueTally]] = {}
        self.class_pixels: dict[str, np.ndarray] = {}
        self.class_images: dict[str, np.ndarray] = {}
        self.ignored: Counter[str] = Counter()
        self.digest = hashlib.sha256()

    def add(self, name: str, split: str, facts: SampleFacts) -> None:
        """Take in one sample; the order of the calls is part of the digest."""
        self.sizes.append(facts.size)
        self.channels[facts.channels] += 1
        self.dtypes[facts.dtype] += 1
        if self.value_split in (None, split):
            tallies = self.values.setdefault(facts.channels, [ValueTally() for _ in range(facts.channels)])
            for tally, values in zip(tallies, facts.values):
                tally.add(values)
        if facts.class_pixels is not None:
            zeros = np.zeros(len(self.class_names), dtype=np.int64)
            self.class_pixels[split] = self.class_pixels.get(split, zeros) + facts.class_pixels
            self.class_images[split] = self.class_images.get(split, zeros) + (facts.class_pixels > 0)
            self.ignored[split] += facts.ignored
        self.digest.update(f"{split}/{name} {facts.size} {facts.image_digest} {facts.mask_digest}\n".encode())

    def finish(self, *, format: str, num_images: dict[str, int], channels: int, groups: int) -> Fingerprint:
        """The fingerprint of all samples taken in."""
        tallies = self.values.get(channels) or [ValueTally(0, 0.0, 0.0) for _ in range(channels)]
        sides = np.array(self.sizes or [(0, 0)])
        # uint8 < uint16 < float32
        widest = max(sorted(self.dtypes), key=lambda dtype: np.dtype(dtype).itemsize, default="uint8")
        return Fingerprint(
            format=format,
            num_images=num_images,
            sizes={
                "min": [int(side) for side in sides.min(axis=0)],
                "median": [int(side) for side in np.median(sides, axis=0)],
                "max": [int(side) for side in sides.max(axis=0)],
            },
            channels=channels,
            dtype=widest,
            value_low=[tally.percentile(LOW_PERCENT) for tally in tallies],
            value_high=[tally.percentile(HIGH_PERCENT) for tally in tallies],
            value_min=[tally.low for tally in tallies],
            value_max=[tally.high for tally in tallies],
            mean=[tally.mean for tally in tallies],
            std=[tally.std for tally in tallies],
            class_names=self.class_names,
            class_pixels={split: [int(n) for n in counts] for split, counts in self.class_pixels.items()},
            ignored_pixels={split: int(self.ignored[split]) for split in self.class_pixels},
            class_images={split: [int(n) for n in counts] for split, counts in self.class_images.items()},
            imbalance=self._imbalance(),
            groups=groups,
            digest=self.digest.hexdigest(),
        )

    def _imbalance(self) -> float:
        counts = self.class_pixels.get("train")
        if counts is None:
            counts = sum(self.class_pixels.values(), np.zeros(len(self.class_names), dtype=np.int64))
        present = counts[counts > 0]
        return float(present.max() / present.min()) if len(present) else 1.0
