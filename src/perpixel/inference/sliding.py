"""A label map of an image of any size from windows of a fixed size.

The windows stand on a regular grid and overlap; their probabilities are averaged with a Gaussian weight, which trusts
a window's middle more than its border (Isensee et al., "nnU-Net", 2021). The image is worked through in strips, one row
of windows each. Rows of pixels that no later window reaches are labelled at once and leave memory, so that beside image
and label map only K x tile height x W numbers are held, never K x H x W.

        +------+------+------+
        | win  | win  | win  |   row 1: its upper part is final and is labelled ...
        |- - - + - - -+ - - -|   <- row 2 starts here
        |      |      |      |   ... its lower part stays for row 2
        +------+------+------+
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perpixel.errors import InputError

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
        label_map: (H, W) class of the highest probability, the lowest of equals; uint8 up to 256 classes, else int32.
        probs: (K, H, W) float32, where asked for.
        uncertainty: (H, W) float32 entropy over log K: 0 = sure, 1 = all classes equally likely; where asked for.
        model_uncertainty: (H, W) float32, the part of it on which random passes disagree; where asked for.
        confidence: (H, W) float32 probability of the class in the label map, where asked for.
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
    tile: tuple[int, int],
    overlap: float = 0.25,
    probs: bool = False,
    uncertainty: bool = False,
    model_uncertainty: bool = False,
    confidence: bool = False,
    batch: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> WindowResult:
    """Label every pixel of `image`.

    Args:
        run: (B, C, h, w) windows -> (B, K, h, w) logits of the same size. It takes any size up to `tile`.
        image: (1, C, H, W), any dtype that `run` takes. Only windows of it are moved to another device, by `run`.
        num_classes: K. With K = 1 the logit is that of class 1 against class 0, and `probs` holds its sigmoid.
        tile: (height, width) of a window; a smaller side of the image is taken as it is, without padding.
        overlap: least share of a window that it has in common with the next, 0 to below 1.
        probs: also return all probabilities, which takes the K x H x W memory that is avoided otherwise.
        uncertainty: also return the entropy map.
        model_uncertainty: also return the entropy less the mean entropy of the random passes that the probabilities
            are the mean of. `run` then returns (logits, mean entropy (B, h, w) over log K); windows that overlap count
            as further passes.
        confidence: also return the probability of the class chosen, which costs no further memory but its map.
        batch: windows a call; None groups small windows up to `GROUP_PIXELS` pixels.
        on_tile: called with (windows done, windows in all).
    Raises:
        InputError: an image that is not (1, C, H, W) with pixels; a tile, overlap or batch that makes no sense;
            logits of another shape.
    """
    _check(image, num_classes, tile, overlap, batch)
    size = (image.shape[2], image.shape[3])
    window = (min(tile[0], size[0]), min(tile[1], size[1]))
    tops, lefts = (window_starts(size[axis], window[axis], overlap) for axis in (0, 1))
    output = _Output(size, num_classes, probs, uncertainty, model_uncertainty, confidence)
    total = len(tops) * len(lefts)
    report = on_tile or (lambda done, total: None)
    with torch.inference_mode():
        if total == 1:
            output.take(_run_windows(run, image, num_classes, 0, [0], window)[0], 0, None)
            report(1, 1)
            return output.result()
        group = batch or max(1, GROUP_PIXELS // (window[0] * window[1]))
        strip: Tensor | None = None  # (K or K + 1, h, W): weighted sums over the windows so far
        weight = _importance(window[0])[:, None] * _importance(window[1])
        columns = _total_weights(lefts, window[1], size[1])
        rows = _total_weights(tops, window[0], size[0])
        for i, top in enumerate(tops):
            for start in range(0, len(lefts), group):
                some = lefts[start : start + group]
                chances = _run_windows(run, image, num_classes, top, some, window)
                if strip is None:
                    strip = chances.new_zeros((chances.shape[1], window[0], size[1]))
                    weight = weight.to(strip)
                for chance, left in zip(chances, some, strict=True):
                    strip[:, :, left : left + window[1]].addcmul_(chance, weight)
                report(i * len(lefts) + start + len(some), total)
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


def _check(image: Tensor, num_classes: int, tile: tuple[int, int], overlap: float, batch: int | None) -> None:
    if image.ndim != 4 or image.shape[0] != 1 or image.numel() == 0:
        raise InputError(f"image {tuple(image.shape)}: give one image with pixels, (1, C, H, W)")
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: give 1 or more")
    if len(tile) != 2 or min(tile) < 1:
        raise InputError(f"tile is {tuple(tile)}: give (height, width), each 1 or more")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap is {overlap}: give a share of 0 up to (not with) 1, as 0.25")
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}: give 1 or more windows a call")


def _importance(window: int) -> Tensor:
    """(window,) Gaussian weight along one axis; the weight of a pixel is the product over both axes."""
    offset = torch.arange(window, dtype=torch.float32) - (window - 1) / 2
    return torch.exp(-0.5 * (offset / (SIGMA * window)) ** 2)


def _total_weights(starts: list[int], window: int, length: int) -> Tensor:
    """(length,) sum of the weights along one axis. On a grid of windows the sum over both axes is a product as well."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + window] += _importance(window)
    return total


def _run_windows(
    run: Run, image: Tensor, num_classes: int, top: int, lefts: list[int], window: tuple[int, int]
) -> Tensor:
    """(B, K, h, w) float32 probabilities of the windows at `top` that start at the columns `lefts`.

    Where `run` gives mean entropies as well they come behind the classes: (B, K + 1, h, w).
    """
    rows = image[:, :, top : top + window[0]]
    windows = [rows[..., left : left + window[1]] for left in lefts]
    answer = run(windows[0] if len(windows) == 1 else torch.cat(windows))
    logits = answer[0] if isinstance(answer, tuple) else answer
    expected = (len(lefts), num_classes, *window)
    if tuple(logits.shape) != expected:
        raise InputError(
            f"the model gave logits {tuple(logits.shape)} for windows that need {expected}: check the model"
        )
    chances = logits.float().softmax(1) if num_classes > 1 else logits.float().sigmoid()
    return torch.cat([chances, answer[1].float()[:, None]], 1) if isinstance(answer, tuple) else chances


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
        size: tuple[int, int],
        num_classes: int,
        probs: bool,
        uncertainty: bool,
        model_uncertainty: bool,
        confidence: bool,
    ) -> None:
        self.num_classes = num_classes
        self.label_map = np.empty(size, dtype=np.uint8 if num_classes <= 256 else np.int32)
        self.probs = np.empty((num_classes, *size), dtype=np.float32) if probs else None
        self.uncertainty = np.empty(size, dtype=np.float32) if uncertainty else None
        self.model_uncertainty = np.empty(size, dtype=np.float32) if model_uncertainty else None
        self.confidence = np.empty(size, dtype=np.float32) if confidence else None

    def result(self) -> WindowResult:
        return WindowResult(self.label_map, self.probs, self.uncertainty, self.model_uncertainty, self.confidence)

    def take(self, strip: Tensor, top: int, weights: tuple[Tensor, Tensor] | None) -> None:
        """Read off the final rows `strip` (K, n, W), which stand at `top`; `weights` turn sums into probabilities.

        With model uncertainty the strip is (K + 1, n, W), the mean entropies behind the classes.
        """
        wanted = (self.probs, self.uncertainty, self.model_uncertainty, self.confidence)
        has_numbers = self.num_classes == 1 or any(array is not None for array in wanted)
        step = _ROWS if strip.device.type == "cpu" else strip.shape[1]
        for start in range(0, strip.shape[1], step):
            sums = strip[:, start : start + step]
            if weights is not None and has_numbers:
                sums = sums / (weights[0][start : start + step, None] * weights[1]).to(sums)
            sums, doubt = sums[: self.num_classes], sums[self.num_classes :]
            rows = slice(top + start, top + start + sums.shape[1])
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
    """Argmax and maximum of (K, n, W) over classes, by one pass a class: 4 to 10 times as fast on a CPU as torch's
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
