"""What values masks hold: counts per value, and how many of them lie in flat areas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from perpixel.data.sample import Sample, as_colours
from perpixel.data.threads import map_threads
from perpixel.labels import FileValue, RawMask

# Beyond this many colours a mask is no colour-coded one; the rest is not listed.
MAX_COLOURS = 4096


@dataclass(frozen=True)
class MaskFacts:
    """The values of one mask.

    Attributes:
        where: the file, for messages.
        pixels: value -> number of pixels.
        flat: value -> number of pixels whose right and lower neighbours carry the same value. Values between two
            classes, from smoothing or lossy files, have almost none.
        palette: (256, 3) uint8 or None.
    """

    where: str
    pixels: dict[FileValue, int]
    flat: dict[FileValue, int]
    kind: str
    lossy: bool
    bits: int
    palette: np.ndarray | None


@dataclass
class MaskScan:
    """The values of all masks together; `masks` keeps the single ones."""

    masks: list[MaskFacts]
    pixels: Counter[FileValue] = field(default_factory=Counter)
    flat: Counter[FileValue] = field(default_factory=Counter)
    images: Counter[FileValue] = field(default_factory=Counter)

    @property
    def is_colour(self) -> bool:
        return any(isinstance(value, tuple) for value in self.pixels)


def value_counts(values: np.ndarray) -> dict[FileValue, int]:
    """Value -> number of pixels.

    Args:
        values: (N,) integer, or (N, 3) uint8 colours, of which the MAX_COLOURS most frequent are listed.
    """
    if values.size == 0:
        return {}
    if values.ndim == 2:
        packed = values[:, 0].astype(np.uint32) << 16 | values[:, 1].astype(np.uint32) << 8 | values[:, 2]
        keys, counts = np.unique(packed, return_counts=True)
        if len(keys) > MAX_COLOURS:
            top = np.sort(np.argsort(-counts, kind="stable")[:MAX_COLOURS])
            keys, counts = keys[top], counts[top]
        return {(int(key) >> 16, int(key) >> 8 & 255, int(key) & 255): int(count) for key, count in zip(keys, counts)}
    if values.dtype in (np.uint8, np.uint16, np.bool_):
        histogram = np.bincount(values)
        keys = np.flatnonzero(histogram)
        return {int(key): int(histogram[key]) for key in keys}
    keys, counts = np.unique(values, return_counts=True)
    return {int(key): int(count) for key, count in zip(keys, counts)}


def examine(raw: RawMask, where: str, *, colour: bool = False) -> MaskFacts:
    """The facts of one mask; with `colour`, greys and palettes are read as colours."""
    values = as_colours(raw) if colour else raw.values
    right, below, here = values[:-1, 1:], values[1:, :-1], values[:-1, :-1]
    same = (here == right) & (here == below)
    flat = same.all(axis=2) if values.ndim == 3 else same
    flat_values = here[flat]
    channels = values.shape[2:]
    return MaskFacts(
        where=where,
        pixels=value_counts(values.reshape(-1, *channels)),
        flat=value_counts(flat_values),
        kind=raw.kind,
        lossy=raw.lossy,
        bits=8 * values.dtype.itemsize,
        palette=raw.palette,
    )


def scan_masks(samples: Sequence[Sample], workers: int | None = None) -> MaskScan:
    """Read every mask once, in threads. Where some masks are colours, all are read as colours.

    Raises:
        InputError: a mask that cannot be read.
    """
    labelled = [sample for sample in samples if sample.mask is not None]
    facts = list(map_threads(lambda sample: _facts(sample, colour=False), labelled, workers))
    colours = [fact.kind == "rgb" for fact in facts]
    if any(colours) and not all(colours):
        again = iter(
            map_threads(lambda s: _facts(s, colour=True), [s for s, c in zip(labelled, colours) if not c], workers)
        )
        facts = [fact if colour else next(again) for fact, colour in zip(facts, colours)]
    scan = MaskScan(facts)
    for fact in facts:
        scan.pixels.update(fact.pixels)
        scan.flat.update(fact.flat)
        scan.images.update(dict.fromkeys(fact.pixels, 1))
    return scan


def _facts(sample: Sample, *, colour: bool) -> MaskFacts:
    assert sample.mask is not None
    return examine(sample.mask.read(), sample.mask_where, colour=colour)
