"""3-D convolutions that are trained rightly in bf16 on a CPU too.

In bf16 on a CPU the gradient of a 3-D convolution's weight is wrong, often inf or NaN, where the kernel is longer than
the map, and its computation writes past its memory (torch 2.14 with avx512_bf16: one in four of a thousand such cases
drawn at random, none of two thousand others; now and then the gradients of bias and input as well). The layers here
compute those in fp32 and give back bf16. They are small, so that it costs next to nothing. Outside training nothing is
wrong and nothing changes.

fp32 has its own fault there: kernels of 7 with stride 2 on maps of up to 8 voxels. No model here has any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_shorter(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> bool:
    """Whether along any axis the windows of a convolution meet less of the map than a kernel is long.

    That is where a kernel is longer than the map of `size`, or where even the last window starts in the padding in
    front of it. All arguments have one value an axis.
    """
    for side, taps, step, pad, gap in zip(size, kernel, stride, padding, dilation):
        extent = gap * (taps - 1) + 1
        last_start = (side + 2 * pad - extent) // step * step - pad
        if side < extent or last_start < 0:
            return True
    return False


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d`, (B, C, D, H, W) -> (B, K, D', H', W'), in fp32 where bf16 would give wrong gradients."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D', H', W'), of the dtype that `torch.nn.Conv3d` returns."""
        if is_trained_in_bf16(input) and self._is_short(input.shape[2:]):
            return in_fp32(self._conv_forward, input, self.weight, self.bias)
        return super().forward(input)

    def _is_short(self, size: Sequence[int]) -> bool:
        padding = self.padding
        if isinstance(padding, str):  # "same" pads half of it in front, rounded down
            is_same = padding == "same"
            padding = tuple(is_same * gap * (taps - 1) // 2 for taps, gap in zip(self.kernel_size, self.dilation))
        return is_shorter(size, self.kernel_size, stride=self.stride, padding=padding, dilation=self.dilation)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d`, (B, C, D, H, W) -> (B, K, D', H', W'), in fp32 where bf16 would give wrong gradients.

    It is a convolution from its output to its input, so that the output's size counts; kernels as long as their stride
    never are in need.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, D, H, W) -> (B, K, D', H', W'), of the dtype that `torch.nn.ConvTranspose3d` returns."""
        if output_size is None and is_trained_in_bf16(input) and self._is_short(input.shape[2:]):
            return in_fp32(self._transposed, input, self.weight, self.bias)
        return super().forward(input, output_size)

    def _is_short(self, size: Sequence[int]) -> bool:
        sides = [
            (side - 1) * step - 2 * int(pad) + gap * (taps - 1) + 1 + more
            for side, taps, step, pad, gap, more in zip(
                size, self.kernel_size, self.stride, self.padding, self.dilation, self.output_padding
            )
        ]
        padding = [int(pad) for pad in self.padding]
        return is_shorter(sides, self.kernel_size, stride=self.stride, padding=padding, dilation=self.dilation)

    def _transposed(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = [int(pad) for pad in self.padding]
        return F.conv_transpose3d(
            input, weight, bias, self.stride, padding, self.output_padding, self.groups, self.dilation
        )


def is_trained_in_bf16(input: Tensor) -> bool:
    """Whether a layer that gets `input` would compute in bf16 on a CPU, with gradients to come."""
    if input.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    is_cast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if is_cast else input.dtype) == torch.bfloat16


def in_fp32(
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor], input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """What `run` makes of the three in fp32, as bf16."""
    with torch.autocast("cpu", enabled=False):
        result = run(input.float(), weight.float(), None if bias is None else bias.float())
    return result.bfloat16()
