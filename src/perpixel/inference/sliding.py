"""A label map of an image or volume of any size from windows of a fixed size.

The windows stand on a regular grid and overlap; their probabilities are averaged with a Gaussian weight, which trusts
a window's middle more than its border (Isensee et al., "nnU-Net", 2021). The image is worked through in strips, one row
of windows each. Rows of pixels that no later window reaches are labelled at once and leave memory, so that beside image
and label map only K x tile height x W numbers are held, never K x H x W.

        +------+------+------+
        | win  | win  | win  |   row 1: its upper part is final and is labelled ...
        |- - - + - - -+ - - -|   <- row 2 starts here
        |      |      |      |   ... its lower part stays for row 2
        +------+------+------+

A volume is worked through in slabs in the same way, along the axis that has most windows: beside volume and label map
a slab one window thick is held, however long the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpixel.errors import InputError
from perpixel.inference.regrid import Regrid

# Standard deviation of the weight over the side of a window, as in nnU-Net; 3e-4 is left at the border.
SIGMA = 1 / 8
# Windows are grouped into one call of the net until the group has as many pixels as this.
GROUP_PIXELS = 512 * 512
# Rows that are labelled in one go: the working set of an argmax then stays in the cache.
_ROWS = 32

Run = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class WindowResult:
    """What `sliding_window` returns.

    Attributes:
        label_map: (H, W) or (D, H, W), class of the highest probability, the lowest of equals; uint8 up to 256 classes,
            else int32.
        probs: (K, *spatial) float32, where asked for.
        uncertainty: (*spatial) float32 entropy over log K: 0 = sure, 1 = all classes equally likely; where asked for.
        model_uncertainty: (*spatial) float32, the part of it on which random passes disagree; where asked for.
        confidence: (*spatial) float32 probability of the class in the label map, where asked for.
    """

    label_map: np.ndarray
    probs: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    model_uncertainty: np.ndarray | None = None
    confidence: np.ndarray | None = None


def sliding_window(
    run: Run,
    image: Tensor,
    *,
    num_classes: int,
    tile: Sequence[int],
    overlap: float = 0.25,
    probs: bool = False,
    uncertainty: bool = False,
    model_uncertainty: bool = False,
    confidence: bool = False,
    batch: int | None = None,
    onto: Regrid | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> WindowResult:
    """Label every pixel of `image`.

    Args:
        run: (B, C, *window) windows -> (B, K, *window) logits of the same size. It takes any size up to `tile`.
        image: (1, C, H, W) or (1, C, D, H, W), any dtype that `run` takes. Only windows of it are moved to another
            device, by `run`.
        num_classes: K. With K = 1 the logit is that of class 1 against class 0, and `probs` holds its sigmoid.
        tile: (height, width) or (depth, height, width) of a window; a smaller side of the image is taken as it is,
            without padding.
        overlap: least share of a window that it has in common with the next along each axis, 0 to below 1.
        probs: also return all probabilities, which takes the memory that is avoided otherwise.
        uncertainty: also return the entropy map.
        model_uncertainty: also return the entropy less the mean entropy of the random passes that the probabilities
            are the mean of. `run` then returns (logits, mean entropy (B, *window) over log K); windows that overlap
            count as further passes.
        confidence: also return the probability of the class chosen, which costs no further memory but its map.
        batch: windows a call; None groups small windows up to `GROUP_PIXELS` pixels.
        onto: another grid for all results; probabilities are interpolated before classes are chosen.
        on_tile: called with (windows done, windows in all).
    Raises:
        InputError: an image that is not (1, C, *spatial) with pixels; a tile, overlap or batch that makes no sense;
            logits of another shape.
    """
    _check(image, num_classes, tile, overlap, batch)
    own_window = [min(side, own) for side, own in zip(tile, image.shape[2:], strict=True)]
    along = _strip_axis(image.shape[2:], own_window)
    calls = _Calls(run, image, num_classes, own_window, along)
    window, size = calls.window, calls.size
    tops, *others = (window_starts(side, own, overlap) for side, own in zip(size, window))
    places = list(product(*others))
    wanted = (probs, uncertainty, model_uncertainty, confidence)
    output = _Output(tuple(image.shape[2:]), along, num_classes, wanted, onto)
    total = len(tops) * len(places)
    report = on_tile or (lambda done, total: None)
    with torch.inference_mode():
        if total == 1:
            output.take(calls(0, places)[0], 0, None)
            report(1, 1)
            return output.result()
        group = batch or max(1, GROUP_PIXELS // math.prod(window))
        strip: Tensor | None = None  # (K or K + 1, h, W): weighted sums over the windows so far
        weight = _outer([_importance(side) for side in window])
        weights = [_total_weights(*each) for each in zip((tops, *others), window, size)]
        rows, columns = weights[0], _outer(weights[1:])
        for i, top in enumerate(tops):
            for start in range(0, len(places), group):
                some = places[start : start + group]
                chances = calls(top, some)
                if strip is None:
                    strip = chances.new_zeros((chances.shape[1], window[0], *size[1:]))
                    weight = weight.to(strip)
                for chance, place in zip(chances, some, strict=True):
                    strip[part_at(place, window[1:])].addcmul_(chance, weight)
                report(i * len(places) + start + len(some), total)
            assert strip is not None
            final = (tops[i + 1] if i + 1 < len(tops) else size[0]) - top
            output.take(strip[:, :final], top, (rows[top : top + final], columns))
            _carry(strip, final)
    return output.result()


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of the windows along one axis: from edge to edge, evenly spaced, overlapping by `overlap` or more.

    >>> window_starts(10, 4, 0.25)
    [0, 3, 6]
    """
    step = max(1, int(window * (1 - overlap)))
    number = 1 + math.ceil((length - window) / step)
    return [round(i * (length - window) / max(1, number - 1)) for i in range(number)]


def _check(image: Tensor, num_classes: int, tile: Sequence[int], overlap: float, batch: int | None) -> None:
    if image.ndim not in (4, 5) or image.shape[0] != 1 or image.numel() == 0:
        raise InputError(f"image {tuple(image.shape)}: give one image with pixels, (1, C, H, W) or (1, C, D, H, W)")
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: give 1 or more")
    if len(tile) != image.ndim - 2 or min(tile) < 1:
        names = "(height, width)" if image.ndim == 4 else "(depth, height, width)"
        raise InputError(f"tile is {tuple(tile)}: give {names}, each 1 or more")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap is {overlap}: give a share of 0 up to (not with) 1, as 0.25")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}: give 1 or more windows a call")


def _strip_axis(size: Sequence[int], window: Sequence[int]) -> int:
    """The axis that strips follow: rows of an image; that of a volume along which a window is the smallest part."""
    if len(size) == 2:
        return 0
    return max(range(len(size)), key=lambda axis: size[axis] / window[axis])


def part_at(place: Sequence[int], window: Sequence[int]) -> tuple[Any, ...]:
    """Index of a window at `place` along the last axes."""
    return (..., *(slice(start, start + side) for start, side in zip(place, window)))


def _outer(factors: Sequence[Tensor]) -> Tensor:
    """Product of one vector for each axis."""
    result = factors[0]
    for factor in factors[1:]:
        result = result[..., None] * factor
    return result


def _importance(window: int) -> Tensor:
    """(window,) Gaussian weight along one axis; the weight of a pixel is the product over the axes."""
    offset = torch.arange(window, dtype=torch.float32) - (window - 1) / 2
    return torch.exp(-0.5 * (offset / (SIGMA * window)) ** 2)


def _total_weights(starts: list[int], window: int, length: int) -> Tensor:
    """(length,) sum of the weights along one axis. On a grid of windows the sum over all axes is a product as well."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + window] += _importance(window)
    return total


class _Calls:
    """The net on windows, with the axis that strips follow in front."""

    def __init__(self, run: Run, image: Tensor, num_classes: int, window: Sequence[int], along: int) -> None:
        self.run, self.num_classes, self.along = run, num_classes, along
        self.image = image.movedim(2 + along, 2)
        self.size: tuple[int, ...] = tuple(self.image.shape[2:])
        self.window = (window[along], *window[:along], *window[along + 1 :])
        self.own_window = tuple(window)

    def __call__(self, top: int, places: Sequence[tuple[int, ...]]) -> Tensor:
        """(B, K, *window) float32 probabilities of the windows at `top` whose other axes start at `places`.

        Where `run` gives mean entropies as well they come behind the classes: (B, K + 1, *window).
        """
        slab = self.image[:, :, top : top + self.window[0]]
        windows = [slab[part_at(place, self.window[1:])] for place in places]
        joined = windows[0] if len(windows) == 1 else torch.cat(windows)
        answer = self.run(joined.movedim(2, 2 + self.along))
        logits = answer[0] if isinstance(answer, tuple) else answer
        expected = (len(places), self.num_classes, *self.own_window)
        if tuple(logits.shape) != expected:
            raise InputError(
                f"the model gave logits {tuple(logits.shape)} for windows that need {expected}: check the model"
            )
        chances = logits.float().softmax(1) if self.num_classes > 1 else logits.float().sigmoid()
        if isinstance(answer, tuple):
            chances = torch.cat([chances, answer[1].float()[:, None]], 1)
        return chances.movedim(2 + self.along, 2)


def _carry(strip: Tensor, final: int) -> None:
    """Move what the next row of windows adds to up to the top of `strip`, and clear the rest; in place."""
    height = strip.shape[1]
    for row in range(height - final):  # row by row, since source and destination may overlap
        strip[:, row] = strip[:, row + final]
    strip[:, height - final :] = 0


class _Output:
    """The arrays that grow row by row while strips become final."""

    def __init__(
        self,
        size: tuple[int, ...],
        along: int,
        num_classes: int,
        wanted: tuple[bool, bool, bool, bool],
        onto: Regrid | None,
    ) -> None:
        self.num_classes, self.along = num_classes, along
        self.grid = onto.steps(size, along) if onto is not None else None
        size = size if onto is None else onto.size
        probs, *maps = wanted
        # The arrays are of the image's own order of axes; here they are seen with the strips' axis in front.
        self.label_map = self._empty(size, np.uint8 if num_classes <= 256 else np.int32)
        self.probs = self._empty((num_classes, *size), np.float32, 1) if probs else None
        self.uncertainty, self.model_uncertainty, self.confidence = (
            self._empty(size, np.float32) if each else None for each in maps
        )

    def _empty(self, size: tuple[int, ...], dtype: type, first: int = 0) -> np.ndarray:
        return np.moveaxis(np.empty(size, dtype), first + self.along, first)

    def result(self) -> WindowResult:
        def own(array: np.ndarray | None, first: int = 0) -> np.ndarray | None:
            return None if array is None else np.moveaxis(array, first, first + self.along)

        label_map = own(self.label_map)
        assert label_map is not None
        maps = (self.uncertainty, self.model_uncertainty, self.confidence)
        return WindowResult(label_map, own(self.probs, 1), *(own(each) for each in maps))

    def take(self, strip: Tensor, top: int, weights: tuple[Tensor, Tensor] | None) -> None:
        """Read off the final rows `strip` (K, n, W), which stand at `top`; `weights` turn sums into probabilities.

        With model uncertainty the strip is (K + 1, n, W), the mean entropies behind the classes.
        """
        wanted = (self.probs, self.uncertainty, self.model_uncertainty, self.confidence, self.grid)
        has_numbers = self.num_classes == 1 or any(each is not None for each in wanted)
        rows = max(1, _ROWS // math.prod(strip.shape[2:-1]))
        step = rows if strip.device.type == "cpu" else strip.shape[1]
        for start in range(0, strip.shape[1], step):
            sums = strip[:, start : start + step]
            if weights is not None and has_numbers:
                total = weights[0][start : start + step].reshape(-1, *(1,) * weights[1].ndim) * weights[1]
                sums = sums / total.to(sums)
            if self.grid is None:
                self._read_off(sums, top + start)
                continue
            for first, part in self.grid.push(sums):
                self._read_off(part, first)

    def _read_off(self, sums: Tensor, top: int) -> None:
        sums, doubt = sums[: self.num_classes], sums[self.num_classes :]
        rows = slice(top, top + sums.shape[1])
        label, highest = _best(sums)
        self.label_map[rows] = label.cpu().numpy()
        if self.confidence is not None:
            self.confidence[rows] = highest.clamp_(0, 1).cpu().numpy()
        if self.probs is not None:
            self.probs[:, rows] = sums.cpu().numpy()
        if self.uncertainty is not None:
            self.uncertainty[rows] = entropy(sums).cpu().numpy()
        if self.model_uncertainty is not None:
            self.model_uncertainty[rows] = (entropy(sums) - doubt[0]).clamp_(0, 1).cpu().numpy()


def _best(chances: Tensor) -> tuple[Tensor, Tensor]:
    """Argmax and maximum of (K, n, ..., W) over classes, by one pass a class: 4 to 10 times as fast on a CPU as torch's
    over the first axis, which reads memory in long strides."""
    if len(chances) == 1:
        return (chances[0] > 0.5).to(torch.uint8), torch.maximum(chances[0], 1 - chances[0])
    highest = chances[0].clone()
    label = torch.zeros(highest.shape, dtype=torch.uint8 if len(chances) <= 256 else torch.int32, device=highest.device)
    for k in range(1, len(chances)):
        label.masked_fill_(chances[k] > highest, k)
        torch.maximum(highest, chances[k], out=highest)
    return label, highest


def entropy(probs: Tensor, dim: int = 0) -> Tensor:
    """Entropy of probabilities along the classes at `dim`, over its largest value: 0..1, without that dimension."""
    if probs.shape[dim] == 1:
        probs = torch.cat([probs, 1 - probs], dim)
    return (torch.special.entr(probs).sum(dim) / math.log(probs.shape[dim])).clamp_(0, 1)
