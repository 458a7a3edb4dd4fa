"""Masks of objects as runs of pixels down the columns, the order of COCO's run lengths: thousands stay small.

A pixel's place is col * H + row. A span (first, end) holds the places first..end-1. The spans of an object are sorted
and apart from each other, so that each mask has one form only, and two masks are equal where their spans are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perpixel.compiled import compile_loop
from perpixel.errors import InputError

Ints = NDArray[np.int64]
# Characters that hold one count at most: 13 x 5 bits are more than the 64 of a whole number.
MOST_CHARACTERS = 13


@dataclass(frozen=True, eq=False)
class Runs:
    """The masks of N objects of one image; they may overlap, and may be empty.

    Attributes:
        size: (H, W) of the image.
        spans: (M, 2) int64, those of all objects one after another.
        starts: (N + 1,) int64; object i has spans[starts[i]:starts[i + 1]].
    """

    size: tuple[int, int]
    spans: Ints
    starts: Ints

    @classmethod
    def join(cls, size: tuple[int, int], parts: Sequence[Ints]) -> Runs:
        """One object of each (m, 2) array of spans, sorted and apart from each other."""
        lengths = [len(part) for part in parts]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        empty = np.zeros((0, 2), np.int64)
        spans = np.concatenate([empty, *(np.asarray(part, np.int64).reshape(-1, 2) for part in parts)])
        return cls((int(size[0]), int(size[1])), spans, starts)

    @classmethod
    def from_masks(cls, masks: Any, size: tuple[int, int] | None = None) -> Runs:
        """(N, H, W) bool; `size` is needed where N is 0 and the array says no size."""
        found = [np.asarray(mask, bool) for mask in masks]
        shape = found[0].shape if found else size or np.shape(masks)[1:]
        if len(shape) != 2 or any(mask.shape != shape for mask in found):
            raise InputError(f"masks of shape {np.shape(masks)}: give (N, H, W), all of the image's size")
        return cls.join((shape[0], shape[1]), [spans_of_mask(mask, (0, 0), (shape[0], shape[1])) for mask in found])

    @classmethod
    def from_texts(cls, texts: Sequence[str], size: tuple[int, int]) -> Runs:
        """One object of each of COCO's compressed run lengths.

        Raises:
            InputError: a damaged text, or one of another size.
        """
        kernel = _compiled_reader()
        if kernel is None or not all(text.isascii() for text in texts):
            return cls.join(size, [spans_of_counts(counts_of_text(text), size) for text in texts])
        ends = np.cumsum([0, *(len(text) for text in texts)])
        spans = np.zeros((int(ends[-1]) // 2 + len(texts) + 1, 2), np.int64)
        starts = np.zeros(len(texts) + 1, np.int64)
        characters = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
        bad = kernel(characters, ends, size[0] * size[1], spans, starts)
        if bad >= 0:
            spans_of_counts(counts_of_text(texts[bad]), size)  # says what is wrong
            raise InputError(f"run lengths {bad} are damaged: export them again")
        return cls(size, spans[: starts[-1]].copy(), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, index: int) -> Ints:
        """(m, 2) spans of one object."""
        return self.spans[self.starts[index] : self.starts[index + 1]]

    def take(self, indices: ArrayLike) -> Runs:
        """The objects of these numbers, in this order; a bool array keeps those that are True."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.starts[:-1][chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Runs(self.size, self.spans[places], starts)

    @cached_property
    def areas(self) -> Ints:
        """(N,) pixels of each object."""
        sums = np.concatenate([[0], np.cumsum(self.spans[:, 1] - self.spans[:, 0])]).astype(np.int64)
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    @cached_property
    def boxes(self) -> Ints:
        """(N, 4) x0 y0 x1 y1 around the pixels, x1 and y1 one past the last; zeros for empty objects."""
        boxes = np.zeros((len(self), 4), np.int64)
        has_any = np.diff(self.starts) > 0
        if not has_any.any():
            return boxes
        height = self.size[0]
        (col0, row0), (col1, row1) = np.divmod(self.spans[:, 0], height), np.divmod(self.spans[:, 1] - 1, height)
        is_long = col1 > col0  # goes over the end of a column, so that it has its first and its last row
        first = self.starts[:-1][has_any]
        columns = (
            np.minimum.reduceat(col0, first),
            np.minimum.reduceat(np.where(is_long, 0, row0), first),
            np.maximum.reduceat(col1, first) + 1,
            np.maximum.reduceat(np.where(is_long, height - 1, row1), first) + 1,
        )
        boxes[has_any] = np.stack(columns, axis=1)
        return boxes

    @cached_property
    def centroids(self) -> NDArray[np.float64]:
        """(N, 2) x, y of the middle of the pixels, whose centres lie at halves; NaN for empty objects."""
        height = self.size[0]
        owner, spans = self._by_column()
        length, col = spans[:, 1] - spans[:, 0], spans[:, 0] // height
        row_sum = (spans[:, 0] + spans[:, 1]) / 2 - col * height
        sums = [np.bincount(owner, weights * length, minlength=len(self)) for weights in (col + 0.5, row_sum)]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=1) / self.areas[:, None]

    def _by_column(self) -> tuple[Ints, Ints]:
        """Spans cut at the ends of the columns, and the object of each."""
        height = self.size[0]
        owner = np.repeat(np.arange(len(self)), np.diff(self.starts))
        first, last = self.spans[:, 0] // height, (self.spans[:, 1] - 1) // height
        pieces = last - first + 1
        which = np.repeat(np.arange(len(self.spans)), pieces)
        col = first[which] + np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begin = np.maximum(self.spans[which, 0], col * height)
        end = np.minimum(self.spans[which, 1], (col + 1) * height)
        return owner[which], np.stack([begin, end], axis=1)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W) of one object."""
        return np.ascontiguousarray(_fill(self.of(index), self.size[0] * self.size[1]).reshape(self.size[::-1]).T)

    def paint(self, order: Ints, values: ArrayLike) -> NDArray[np.int32]:
        """(H, W) int32: values[i] on object i, the objects in this order, later over earlier; 0 elsewhere."""
        height, width = self.size
        flat = np.zeros(height * width, np.int32)
        numbers = np.asarray(values, np.int64)
        (_compiled_paint() or _paint)(self.spans, self.starts, np.asarray(order, np.int64), numbers, flat)
        return np.ascontiguousarray(flat.reshape(width, height).T)

    def crop(self, index: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """The mask within the box of its pixels (h, w), and the row and column of its corner."""
        col0, row0, col1, row1 = (int(side) for side in self.boxes[index])
        spans, height, inner = self.of(index), self.size[0], row1 - row0
        # No span of a box that is lower than the image goes over the end of a column.
        begin = (spans[:, 0] // height - col0) * inner + spans[:, 0] % height - row0
        places = np.stack([begin, begin + spans[:, 1] - spans[:, 0]], axis=1)
        filled = _fill(places, inner * (col1 - col0)).reshape(col1 - col0, inner).T
        return np.ascontiguousarray(filled), (row0, col0)

    def counts(self, index: int) -> list[int]:
        """COCO's plain run lengths: off, on, off, ...; the first may be 0."""
        pixels = self.size[0] * self.size[1]
        edges = np.concatenate([[0], self.of(index).ravel(), [pixels]])
        lengths = np.diff(edges)
        return lengths[:-1].tolist() if len(lengths) > 1 and lengths[-1] == 0 else lengths.tolist()

    def text(self, index: int) -> str:
        """COCO's compressed run lengths."""
        return text_of_counts(self.counts(index))


def _fill(spans: Ints, pixels: int) -> NDArray[np.bool_]:
    lengths = np.diff(np.concatenate([[0], spans.ravel(), [pixels]]))
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def merge_spans(spans: ArrayLike) -> Ints:
    """(m, 2) spans in any order, overlapping or touching -> the spans of their union; empty ones are dropped."""
    table = np.asarray(spans, np.int64).reshape(-1, 2)
    table = table[table[:, 1] > table[:, 0]]
    if not len(table):
        return table
    table = table[np.argsort(table[:, 0], kind="stable")]
    reach = np.maximum.accumulate(table[:, 1])
    is_first = np.concatenate([[True], table[1:, 0] > reach[:-1]])
    begins = np.flatnonzero(is_first)
    ends = np.concatenate([begins[1:], [len(table)]]) - 1
    return np.stack([table[begins, 0], reach[ends]], axis=1)


def spans_of_mask(mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> Ints:
    """The spans of a mask (h, w) that lies with its first pixel at (row, col) = `corner` of an image of `size`.

    What reaches beyond the image is cut off.
    """
    height, width = size
    row0, col0 = max(0, -corner[0]), max(0, -corner[1])
    inside = mask[row0 : max(0, height - corner[0]), col0 : max(0, width - corner[1])]
    row, col = corner[0] + row0, corner[1] + col0
    padded = np.zeros((inside.shape[1], inside.shape[0] + 2), np.int8)
    padded[:, 1:-1] = inside.T
    turns = np.diff(padded, axis=1)
    begin, end = np.nonzero(turns == 1), np.nonzero(turns == -1)
    places = [(cols + col) * height + rows + row for cols, rows in (begin, end)]
    return merge_spans(np.stack(places, axis=1))


def spans_of_counts(counts: ArrayLike, size: tuple[int, int]) -> Ints:
    """COCO's plain run lengths -> spans.

    Raises:
        InputError: a negative count, or counts that do not add up to H * W.
    """
    height, width = size
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise InputError(
            f"run lengths add up to {int(lengths.sum())}, the image has {height} x {width} = {height * width} pixels: "
            "export the annotation again"
        )
    edges = np.cumsum(lengths)
    on = np.stack([edges[0 : len(edges) // 2 * 2 : 2], edges[1::2]], axis=1)
    return merge_spans(on)


def counts_of_text(text: str) -> Ints:
    """COCO's compressed run lengths to plain counts.

    Five bits to a character (from '0'), low bits first, bit 32 says that more follow, bit 16 of the last one that the
    number is negative; from the fourth count on, the difference to the count two before is stored.

    Raises:
        InputError: a character outside the code, a count of more than 64 bits, or a text that ends within a count.
    """
    bits = np.array([ord(character) for character in text], np.int64) - 48
    wrong = np.flatnonzero((bits < 0) | (bits >= 64))
    if len(wrong):
        raise InputError(
            f"run lengths hold the character {text[wrong[0]]!r}, the annotation is damaged: export it again"
        )
    is_last = (bits & 32) == 0
    if len(bits) and not is_last[-1]:
        raise InputError("run lengths end in the middle of a count, the annotation is damaged: export it again")
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    length = last - first + 1
    if len(length) and int(length.max()) >= MOST_CHARACTERS:
        raise InputError("run lengths hold a count of more than 64 bits, the annotation is damaged: export it again")
    shift = 5 * (np.arange(len(bits)) - np.repeat(first, length))
    sums = np.add.reduceat((bits & 31) << shift, first) if len(last) else last
    steps = np.where(bits[last] & 16, sums - (1 << (5 * length)), sums).astype(np.int64)
    counts = steps.copy()
    counts[1::2], counts[2::2] = np.cumsum(steps[1::2]), np.cumsum(steps[2::2])
    return counts


def text_of_counts(counts: ArrayLike) -> str:
    """The other way round."""
    plain = np.asarray(counts, np.int64)
    steps = plain.copy()
    steps[3:] -= plain[1:-2]
    table = np.zeros((len(steps), MOST_CHARACTERS), np.uint8)
    used = np.zeros(table.shape, bool)
    more = np.ones(len(steps), bool)
    for place in range(MOST_CHARACTERS):
        if not more.any():
            break
        used[:, place] = more
        bits = steps & 31
        steps = steps >> 5
        follows = np.where(bits & 16, steps != -1, steps != 0)
        table[:, place] = bits + np.where(follows, 32, 0) + 48
        more = more & follows
    return table[used].tobytes().decode("ascii")


def _read_texts(characters: Any, ends: Any, pixels: int, spans: Any, starts: Any) -> int:
    """All texts to spans; the number of the first damaged text, or -1."""
    made = 0
    starts[0] = 0
    for text in range(len(ends) - 1):
        place = ends[text]
        total = number = before = last = 0  # `before` is the count two ago
        while place < ends[text + 1]:
            value = shift = 0
            bits = 32
            while bits & 32:
                if place >= ends[text + 1] or shift > 55:
                    return text
                bits = int(characters[place]) - 48
                if bits < 0 or bits >= 64:
                    return text
                value |= (bits & 31) << shift
                shift += 5
                place += 1
            if bits & 16:
                value -= 1 << shift
            if number > 2:
                value += before
            before, last = last, value
            if value < 0 or value > pixels - total:
                return text
            if number % 2 == 1 and value > 0:
                if made > starts[text] and spans[made - 1, 1] == total:
                    spans[made - 1, 1] = total + value
                else:
                    spans[made, 0], spans[made, 1] = total, total + value
                    made += 1
            total += value
            number += 1
        if total != pixels:
            return text
        starts[text + 1] = made
    return -1


def _paint(spans: Any, starts: Any, order: Any, values: Any, flat: Any) -> None:
    for index in order:
        for span in range(starts[index], starts[index + 1]):
            flat[spans[span, 0] : spans[span, 1]] = values[index]


@cache
def _compiled_paint() -> Any:
    return compile_loop(_paint)


@cache
def _compiled_reader() -> Any:
    return compile_loop(_read_texts)
