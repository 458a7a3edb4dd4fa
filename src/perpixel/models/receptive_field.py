"""How far a model sees, measured: which pixels have a gradient at the logit in the middle.

Two questions, two passes:

Which pixels can count at all? The theoretical field, a fact of the wiring. Weights are replaced by positive ones,
maximum pools by averages and activations by the identity, so that no dead ReLU, no cancellation and no unlucky maximum
hides a path; and every gradient is put to 0 or 1 on its way back, since at the rim of a deep field it would be too
small for a float. After upsampling this field differs from one position to the next by up to one coarse cell, so it
may differ by as much from the arithmetic of `describe`, which knows no positions.

Which pixels do count? The effective field of Luo, Li, Urtasun, Zemel, "Understanding the effective receptive field in
deep convolutional neural networks", NIPS 2016: the model as it is, mean absolute gradient over random images. It is
nearly Gaussian and much smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from perpixel.errors import InputError

# Luo et al. count a pixel while its gradient lies within two standard deviations of the peak of a Gaussian.
EFFECTIVE_SHARE = 1 - 0.9545
MASS_SHARE = 0.95
ACTIVATIONS = ("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "hardswish", "mish",
               "softplus", "tanh")  # fmt: skip
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class MeasuredField:
    """What the logit at `row`, `col` of the image (its middle) sees.

    Attributes:
        box: x0, y0, x1, y1 (ends excluded) of the pixels that can have a gradient.
        is_clipped: the box touches the rim of the image, so the field may be larger than measured.
        effective_pixels: with a mean gradient above 4.55 % of the largest one; None where the weights give none at
            all (score layers that start at zero).
        mass_side: of the smallest centred square that holds 95 % of the gradients' sum; None likewise.
    """

    row: int
    col: int
    box: tuple[int, int, int, int]
    is_clipped: bool
    effective_pixels: int | None
    mass_side: int | None

    @property
    def width(self) -> int:
        """Of the box."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """Of the box."""
        return self.box[3] - self.box[1]

    @property
    def effective_side(self) -> float | None:
        """Of the square with as many pixels as count."""
        return None if self.effective_pixels is None else math.sqrt(self.effective_pixels)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        sizes = {"height": self.height, "width": self.width, "effective_side": self.effective_side}
        return asdict(self) | {"box": list(self.box)} | sizes


def measured_receptive_field(
    model: nn.Module, *, in_channels: int, size: tuple[int, int], samples: int = 2, seed: int = 0
) -> MeasuredField:
    """Measure on images of `size` (height, width); nothing of the model changes.

    Args:
        samples: random images over which the effective field is averaged.
        seed: of the images and weights drawn.
    Raises:
        InputError: `samples` below 1, or the model does not take this size.
    """
    if samples < 1:
        raise InputError(f"samples={samples}: measure on at least one image")
    generator = torch.Generator().manual_seed(seed)
    with _evaluating(model):
        reach = _reach(model, in_channels, size, generator)
        mean = torch.zeros(size, dtype=torch.float64)
        for _ in range(samples):
            image = torch.randn(1, in_channels, *size, generator=generator)
            mean += _gradient(model, dict(_state(model)), image, generator) / samples
    row, col = size[0] // 2, size[1] // 2
    rows, cols = reach.any(1).nonzero().flatten().tolist(), reach.any(0).nonzero().flatten().tolist()
    box = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
    peak = float(mean.max())
    return MeasuredField(
        row=row,
        col=col,
        box=box,
        is_clipped=min(box[:2]) == 0 or box[2] == size[1] or box[3] == size[0],
        effective_pixels=int((mean > EFFECTIVE_SHARE * peak).sum()) if peak else None,
        mass_side=_mass_side(mean, row, col) if peak else None,
    )


def _reach(model: nn.Module, in_channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(H, W) bool: the pixels from which some path leads to the logit in the middle."""
    image = torch.rand(1, in_channels, *size, generator=generator) + 0.5
    with _OpenPaths():
        return _gradient(model, _positive(model, generator), image, None) > 0


def _gradient(model: nn.Module, tensors: dict[str, Tensor], image: Tensor, generator: torch.Generator | None) -> Tensor:
    """(H, W) float64: absolute gradient, summed over channels, of the middle logit (a random mixture of classes)."""
    image.requires_grad_()
    logits = functional_call(model, tensors, (image,))
    middle = logits[0, :, logits.shape[2] // 2, logits.shape[3] // 2]
    mixture = torch.ones(len(middle)) if generator is None else torch.randn(len(middle), generator=generator)
    (gradient,) = torch.autograd.grad((middle * mixture.to(middle)).sum(), image)
    return gradient[0].double().abs().sum(0)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, which need no gradient here, and buffers."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        yield name, value.detach()


def _positive(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights drawn from (0.5, 1.5) and scaled to sum 1 for each output, no bias, norms that change nothing."""
    tensors = dict(_state(model))
    learned = {name for name, _ in model.named_parameters()}
    for name in learned:
        value = tensors[name]
        if value.ndim < 2:
            tensors[name] = torch.zeros_like(value)
            continue
        drawn = torch.rand(value.shape, generator=generator) + 0.5
        tensors[name] = drawn / drawn.flatten(1).sum(1).view(-1, *[1] * (value.ndim - 1))
    for name, part in model.named_modules():
        if isinstance(part, NORMS):
            values = {"weight": 1.0, "running_mean": 0.0, "running_var": 1.0}
            for key, constant in values.items():
                full = f"{name}.{key}" if name else key
                if full in tensors:
                    tensors[full] = torch.full_like(tensors[full], constant)
    return tensors


class _OpenPaths(TorchFunctionMode):
    """Within it, nothing stops a gradient: it reaches all of a maximum pool's window, passes every activation, and is
    1 wherever it is not 0."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in ACTIVATIONS:
            return args[0].view_as(args[0])
        if name in ("sigmoid", "hardsigmoid"):
            return torch.sigmoid(args[0] / (1 + args[0].detach().abs()))
        if name == "max_unpool2d":
            return _spread(*args, **kwargs)
        if name == "mul" and len(args) == 2 and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            return args[0].expand(torch.broadcast_shapes(args[0].shape, args[1].shape))  # a mask hides nothing
        result = func(*args, **kwargs)
        if name.startswith("max_pool2d"):
            average = _average_pool(*args, **kwargs)
            result = (average, result[1]) if isinstance(result, tuple) else average
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.requires_grad and name != "requires_grad":
                # Contiguous, because torch 2.14's batch_norm misreads some channels-last gradients of one image.
                tensor.register_hook(lambda gradient: gradient.ne(0).to(gradient).contiguous())
        return result


def _average_pool(
    maps: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:  # fmt: skip
    """The average over the windows of a maximum pool."""
    if dilation in (1, (1, 1), [1, 1]):
        return F.avg_pool2d(maps, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad=False)
    if ceil_mode:
        raise InputError(f"a maximum pool with dilation {dilation} that rounds up: its field cannot be measured here")
    sides = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    kernel = maps.new_full((maps.shape[1], 1, *sides), 1 / (sides[0] * sides[1]))
    return F.conv2d(maps, kernel, None, stride or kernel_size, padding, dilation, groups=maps.shape[1])


def _spread(
    maps: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Unpooling to all places of a window instead of to the remembered one."""
    stride = stride or kernel_size
    factors = (stride, stride) if isinstance(stride, int) else stride
    size = [side * factor for side, factor in zip(maps.shape[-2:], factors)]
    return F.interpolate(maps, size=tuple(output_size or size)[-2:], mode="nearest")


def _mass_side(mean: Tensor, row: int, col: int) -> int:
    rows = torch.arange(mean.shape[0]).sub(row).abs().unsqueeze(1)
    cols = torch.arange(mean.shape[1]).sub(col).abs().unsqueeze(0)
    distance = torch.maximum(rows, cols)
    by_distance = torch.zeros(int(distance.max()) + 1, dtype=mean.dtype)
    by_distance.index_add_(0, distance.flatten(), mean.flatten())
    held = by_distance.cumsum(0) / by_distance.sum()
    return 2 * int((held < MASS_SHARE).sum()) + 1


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
