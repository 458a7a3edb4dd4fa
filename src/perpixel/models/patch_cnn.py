"""Patch CNN: each pixel is classified from the window around it, by a small network of convolutions and max-pools.

Ciresan, Giusti, Gambardella, Schmidhuber, "Deep neural networks segment neuronal membranes in electron microscopy
images", NIPS 2012. Maps of its net N4 for one window, 48 channels wide:

    window 95 -> conv 4x4, pool 2 -> conv 5x5, pool 2 -> conv 4x4, pool 2 -> conv 4x4, pool 2 -> fc 200 -> K scores
                  92        46         42        21        18        9          6        3

Two forms of one network, with the same tensors and the same answers:

- "sliding" is the paper's: a window for every pixel is cut out of the mirrored image and classified by itself.
  Neighbours share all but a column of their pixels, and compute everything anew.
- "dense" computes every value once. Each pool moves by one pixel in place of its size, and whatever follows reads its
  inputs that many times further apart (dilation 2, 4, 8, 16): at every pixel these are the values that the window
  centred there has. Giusti et al., "Fast image scanning with deep max-pooling convolutional neural networks", ICIP
  2013, sort the same values into fragments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perpixel.errors import InputError
from perpixel.layers import classifier_normal_, he_normal_, mirror_to
from perpixel.models.card import Card, Count

CARD = Card(
    title="Patch CNN",
    paper='Dan Ciresan, Alessandro Giusti, Luca Gambardella, Jürgen Schmidhuber, "Deep neural networks segment '
    'neuronal membranes in electron microscopy images", NIPS 2012',
    counts=(
        Count("N4 (window 95), 1 channel, 2 classes", 219_290, in_channels=1, num_classes=2),
        Count("N3 (window 65), 1 channel, 2 classes", 117_806, in_channels=1, num_classes=2, options={"window": 65}),
    ),
    scores=("ISBI 2012 EM segmentation, four nets averaged: Rand 0.048, warping 0.000434, pixel 0.060",),
    training="All membrane pixels and as many others, one window each; windows mirrored and turned by 90 degrees at "
    "random; plain gradient descent.",
    deviations=(
        "The dense form is the default. It gives the numbers of the sliding one, which form='sliding' computes.",
        "Training sees whole crops, every pixel of them, not windows drawn with equal numbers of both classes: class "
        "weights do that.",
        "One net, without the paper's foveated windows, calibration by a cubic and median filter.",
        "The paper tabulates N4 only. Window 65 has the layers that the Seung lab's re-implementation gives N3.",
        "The scaled tanh 1.7159 tanh(2x/3) is that re-implementation's, as in the authors' other nets; weights start "
        "as LeCun et al. 1998 gave for it. activation='relu' learned a little faster where both were tried.",
    ),
)

# Bytes that the largest maps of the windows classified at a time may take.
CHUNK_BYTES = 2**27


class Layout(NamedTuple):
    """Kernel of each convolution, pool behind each, and units of the fully connected layer."""

    kernels: tuple[int, ...]
    pools: tuple[int, ...]
    hidden: int


# By window.
LAYOUTS = {95: Layout((4, 5, 4, 4), (2, 2, 2, 2), 200), 65: Layout((3, 4, 4), (3, 2, 2), 100)}


class PatchLayer(nn.Module):
    """Convolution, activation and max-pool, of one window or of all at once.

    Args:
        pool: 1 for none.
        activation: "relu", "tanh" (1.7159 tanh(2x/3)) or None.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, pool: int, activation: str | None) -> None:
        super().__init__()
        self.pool, self.activation = pool, activation
        self.conv = nn.Conv2d(in_channels, channels, kernel)

    def forward(self, maps: Tensor, dilation: int | None) -> Tensor:
        """maps (B, C, H, W) -> (B, C', H', W').

        Args:
            dilation: distance of the values that belong to one window; None where the map is that of one window.
        """
        maps = F.conv2d(maps, self.conv.weight, self.conv.bias, dilation=dilation or 1)
        if self.activation == "relu":
            maps = maps.relu()
        elif self.activation == "tanh":
            maps = 1.7159 * torch.tanh(maps * (2 / 3))
        if self.pool == 1:
            return maps
        if dilation is None:
            return F.max_pool2d(maps, self.pool)
        return F.max_pool2d(maps, self.pool, stride=1, dilation=dilation)


class Assemble(nn.Module):
    """Answers of single windows (B * H * W, K, 1, 1) to where they belong: (B, K, H, W)."""

    image_step = 1  # pixels between two answers, for `describe`

    def forward(self, answers: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Windows lie in the order of their pixels, row by row."""
        return answers.reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()


class PatchCNN(nn.Module):
    """The network of `patch_cnn`: image (B, C, H, W) -> logits (B, K, H, W)."""

    aux_weights: tuple[float, ...] = ()
    margin = 0

    def __init__(
        self, in_channels: int, num_classes: int, *, window: int, layout: Layout, width: int, activation: str, form: str
    ) -> None:
        super().__init__()
        self.window, self.form = window, form
        layers, before = [], in_channels
        for kernel, pool in zip(layout.kernels, layout.pools):
            layers.append(PatchLayer(before, width, kernel, pool, activation))
            before = width
        layers.append(PatchLayer(width, layout.hidden, _left(window, layout), 1, activation))
        layers.append(PatchLayer(layout.hidden, num_classes, 1, 1, None))
        names = [*(f"conv{number}" for number in range(1, len(layers) - 1)), "fc", "score"]
        self.layers = nn.ModuleDict(dict(zip(names, layers)))
        self.pools = [layer.pool for layer in layers]
        self.assemble = Assemble()
        first = window - layout.kernels[0] + 1
        self.chunk = max(1, CHUNK_BYTES // (4 * width * first**2))
        self._initialise(activation)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, H, W) float -> logits (B, K, H, W)."""
        batch, _, height, width = image.shape
        mirrored = mirror_to(image, (height + self.window - 1, width + self.window - 1), self.window // 2)
        if self.form == "dense":
            return self._run(mirrored, dilation=1)
        count = batch * height * width
        chunk = count if image.is_meta else self.chunk  # shapes alone need no memory
        chunks = [(start, min(count, start + chunk)) for start in range(0, count, chunk)]
        # Maps of a chunk are computed again for its gradient: those of all chunks at once would fill any memory.
        answers = [
            checkpoint(self._classify, mirrored, *each, use_reentrant=False)
            if torch.is_grad_enabled()
            else self._classify(mirrored, *each)
            for each in chunks
        ]
        return self.assemble(torch.cat(answers), batch, height, width)

    def stages(self) -> dict[str, nn.Module]:
        """The parts that `describe` lists, in the paper's order."""
        return {**self.layers, "assemble": self.assemble} if self.form == "sliding" else dict(self.layers)

    def _run(self, maps: Tensor, dilation: int | None) -> Tensor:
        for layer, pool in zip(self.layers.values(), self.pools):
            maps = layer(maps, dilation)
            dilation = None if dilation is None else dilation * pool
        return maps

    def _classify(self, mirrored: Tensor, start: int, stop: int) -> Tensor:
        """Scores (n, K, 1, 1) of the windows at pixels `start` to `stop`, counted row by row through the batch."""
        windows = mirrored.unfold(2, self.window, 1).unfold(3, self.window, 1)  # a view (B, C, H, W, w, w)
        height, width = windows.shape[2:4]
        pixel = torch.arange(start, stop, device=mirrored.device)
        row, col = pixel // width % height, pixel % width
        return self._run(windows[pixel // (height * width), :, row, col], dilation=None)

    def _initialise(self, activation: str) -> None:
        he_normal_(self, fan="out")
        if activation == "tanh":
            for part in self.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.normal_(part.weight, std=1 / math.sqrt(part.weight[0].numel()))
        score = self.layers["score"]
        assert isinstance(score, PatchLayer)
        classifier_normal_(score.conv)


def patch_cnn(
    in_channels: int = 3,
    num_classes: int = 21,
    *,
    window: int = 95,
    form: str = "dense",
    activation: str = "tanh",
    width: int = 48,
    kernels: Sequence[int] | None = None,
    pools: Sequence[int] | None = None,
    hidden: int | None = None,
) -> PatchCNN:
    """Patch CNN: every pixel classified from the window around it, all windows in one pass.

    Args:
        window: side of the window, odd, so that it has a pixel in its middle. 95 is the paper's N4, 65 its N3.
        form: "dense" computes all windows at once; "sliding" one by one, hundreds of times slower, the same answers.
        activation: "tanh" (scaled, 1.7159 tanh(2x/3)), or "relu", which learns a little faster.
        width: channels of the convolutions.
        kernels: sides of the convolutions, needed for windows other than 95 and 65.
        pools: sides of the max-pools behind them; all 2 where kernels are given without.
        hidden: units of the fully connected layer; 200 in N4, 100 in N3.
    Raises:
        InputError: an option out of range, or a window that the layers do not divide evenly (those that fit are named).
    """
    _check(window, form, activation, width, hidden)
    return PatchCNN(
        in_channels, num_classes, window=window, layout=_layout(window, kernels, pools, hidden), width=width,
        activation=activation, form=form,
    )  # fmt: skip


def _layout(window: int, kernels: Sequence[int] | None, pools: Sequence[int] | None, hidden: int | None) -> Layout:
    known = LAYOUTS.get(window)
    if kernels is None and known is None:
        raise InputError(
            f"option window={window} of patch_cnn: its layers are known for 95 and 65: "
            "give kernels (and pools) for another, such as kernels=[4,5,4,4]"
        )
    if kernels is None:
        assert known is not None
        kernels, pools = known.kernels, known.pools if pools is None else pools
    pools = [2] * len(_numbers("kernels", kernels)) if pools is None else pools
    if len(_numbers("pools", pools)) != len(_numbers("kernels", kernels)):
        raise InputError(f"option pools={list(pools)} of patch_cnn: give one for each of kernels={list(kernels)}")
    layout = Layout(tuple(kernels), tuple(pools), hidden or (known.hidden if known else LAYOUTS[95].hidden))
    _check_fit(window, layout)
    return layout


def _numbers(option: str, values: Sequence[int]) -> Sequence[int]:
    is_list = isinstance(values, (list, tuple)) and len(values) > 0
    if not is_list or not all(type(value) is int and value >= 1 for value in values):
        raise InputError(f"option {option}={values!r} of patch_cnn: give a list of whole numbers, such as [4,5,4,4]")
    return values


def _left(window: int, layout: Layout) -> int:
    """Side of the map that the last pool leaves of a window; 0 where some pool does not divide its map."""
    side = window
    for kernel, pool in zip(layout.kernels, layout.pools):
        side -= kernel - 1
        if side < pool or side % pool:
            return 0
        side //= pool
    return side


def _check_fit(window: int, layout: Layout) -> None:
    if _left(window, layout):
        return
    least = 1
    for kernel, pool in zip(reversed(layout.kernels), reversed(layout.pools)):
        least = least * pool + kernel - 1
    period = math.prod(layout.pools)
    fitting = [size for size in range(least, max(window, least) + 2 * period + 1, period) if size % 2]
    near = [*[size for size in fitting if size < window][-1:], *[size for size in fitting if size > window][:1]]
    layers = f"kernels={list(layout.kernels)} and pools={list(layout.pools)}"
    remedy = f"use window={' or '.join(map(str, near))}" if near else "no odd window does: choose other kernels"
    raise InputError(f"option window={window} of patch_cnn is not divided evenly by {layers}: {remedy}")


def _check(window: int, form: str, activation: str, width: int, hidden: int | None) -> None:
    if window < 1 or window % 2 == 0:
        raise InputError(f"option window={window} of patch_cnn: give an odd side, so that it has a pixel in its middle")
    if form not in ("dense", "sliding"):
        raise InputError(f"option form={form!r} of patch_cnn: choose dense or sliding")
    if activation not in ("tanh", "relu"):
        raise InputError(f"option activation={activation!r} of patch_cnn: choose tanh or relu")
    if width < 1:
        raise InputError(f"option width={width} of patch_cnn: it must be at least 1")
    if hidden is not None and (type(hidden) is not int or hidden < 1):
        raise InputError(f"option hidden={hidden!r} of patch_cnn: give a whole number from 1 on")
