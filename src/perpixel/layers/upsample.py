"""Bilinear interpolation written as a transposed convolution, as FCN upsamples its scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError


def bilinear_kernel(factor: int) -> Tensor:
    """The (k, k) float32 kernel, k = 2 * factor - factor % 2, with which a stride-`factor` transposed convolution
    interpolates linearly.

    Weight at (i, j) = (1 - |i - c| / f) (1 - |j - c| / f), f = ceil(k / 2), c = f - 1 for odd k, f - 0.5 for even k.

    Raises:
        InputError: `factor` is below 1.
    Reference:
        Long et al., "Fully convolutional networks", CVPR 2015, as in the authors' surgery.py.

    >>> bilinear_kernel(2)[0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    if factor < 1:
        raise InputError(f"upsampling factor {factor}: it must be at least 1")
    return _kernel_of_size(2 * factor - factor % 2)


def _kernel_of_size(size: int) -> Tensor:
    half = (size + 1) // 2
    centre = half - 1 if size % 2 else half - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / half
    return torch.outer(line, line)


class BilinearUpsample(nn.Module):
    """Transposed convolution without bias, started as bilinear interpolation: (B, C, H, W) -> (B, C, H', W').

    H' = (H - 1) * factor - 2 * padding + kernel_size. Each channel is interpolated by itself (diagonal weight).

    A frozen layer stores one kernel per channel, `weight` (C, 1, k, k), and runs grouped: C times fewer values and
    multiply-adds than the dense (C, C, k, k) of the authors, the same result. It loads the dense form too, and
    refuses one that mixes channels. A learned layer is dense, since training fills the off-diagonal entries.

    Args:
        learned: the weight is a parameter; False makes it a buffer, saved but never trained.
        kernel_size: None means 2 * factor - factor % 2; FCN-AlexNet needs the odd 63 for factor 32.
    """

    def __init__(
        self, channels: int, factor: int, *, learned: bool = False, kernel_size: int | None = None, padding: int = 0
    ) -> None:
        super().__init__()
        kernel = bilinear_kernel(factor) if kernel_size is None else _kernel_of_size(kernel_size)
        self.channels, self.factor, self.padding, self.learned = channels, factor, padding, learned
        self.kernel_size = kernel.shape[0]
        self.weight: Tensor
        if learned:
            self.weight = nn.Parameter(torch.zeros(channels, channels, *kernel.shape))
        else:
            self.register_buffer("weight", torch.zeros(channels, 1, *kernel.shape))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Put the bilinear kernel back on the channel diagonal."""
        kernel = _kernel_of_size(self.kernel_size)
        self.weight.zero_()
        if self.learned:
            diagonal = torch.arange(self.channels)
            self.weight[diagonal, diagonal] = kernel.to(self.weight)
        else:
            self.weight[:, 0] = kernel.to(self.weight)

    def forward(self, scores: Tensor) -> Tensor:
        """scores (B, C, H, W) -> (B, C, (H - 1) * factor - 2 * padding + kernel_size, same for W)."""
        groups = 1 if self.learned else self.channels
        return F.conv_transpose2d(scores, self.weight, stride=self.factor, padding=self.padding, groups=groups)

    def dense_weight(self) -> Tensor:
        """The weight in the authors' form (C, C, k, k), whichever way it is stored."""
        return self.weight.detach() if self.learned else to_dense(self.weight)

    def adopt(self, given: Tensor, key: str) -> Tensor:
        """`given` in the form that this layer stores, dense to grouped or grouped to dense; other shapes as they are.

        Raises:
            InputError: the layer is frozen and `given`, the tensor named `key`, mixes channels.
        """
        is_kernel = given.ndim == 4 and given.shape[0] == self.channels > 1
        if is_kernel and not self.learned and given.shape[1] == self.channels:
            return _to_grouped(given, key)
        if is_kernel and self.learned and given.shape[1] == 1:
            return to_dense(given)
        return given

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        key = f"{prefix}weight"
        if key in state_dict:
            state_dict[key] = self.adopt(state_dict[key], key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shown inside print(model)."""
        return f"{self.channels}, factor={self.factor}, kernel_size={self.kernel_size}, learned={self.learned}"


def to_dense(grouped: Tensor) -> Tensor:
    """(C, 1, k, k) -> (C, C, k, k) with the kernels on the diagonal."""
    channels = grouped.shape[0]
    dense = grouped.new_zeros(channels, channels, *grouped.shape[2:])
    diagonal = torch.arange(channels)
    dense[diagonal, diagonal] = grouped[:, 0]
    return dense


def _to_grouped(dense: Tensor, key: str) -> Tensor:
    diagonal = torch.arange(dense.shape[0])
    grouped = dense[diagonal, diagonal].unsqueeze(1)
    if not torch.equal(to_dense(grouped), dense):
        raise InputError(f"{key}: the dense kernel mixes channels, a frozen upsampler cannot: build it as learned")
    return grouped
