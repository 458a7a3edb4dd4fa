"""2-D convolutions that are trained rightly in bf16 on a CPU, whoever built them.

The fault of `conv3d.py` is there in two dimensions too, where a map is narrower than the kernel (width 1 under a padded
3x3, torch 2.14 with avx512_bf16). Backbones come from other libraries with their own layers, so these are changed in
place and not replaced.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from perpixel.layers.conv3d import in_fp32, is_shorter, is_trained_in_bf16


def guard_convolutions(model: nn.Module) -> None:
    """Let every 2-D convolution of `model` compute in fp32 where bf16 would give wrong gradients.

    Weights, names and results elsewhere stay as they are; copies of the model are guarded as well.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1:
            layer._conv_forward = partial(_guarded, layer)  # type: ignore[method-assign]


def _guarded(layer: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.Conv2d` without its weights: (B, C, H, W) -> (B, K, H', W')."""
    plain = partial(nn.Conv2d._conv_forward, layer)
    if is_trained_in_bf16(input) and not isinstance(layer.padding, str):
        padding = tuple(int(pad) for pad in layer.padding)
        if is_shorter(
            input.shape[2:], layer.kernel_size, stride=layer.stride, padding=padding, dilation=layer.dilation
        ):
            return in_fp32(plain, input, weight, bias)
    return plain(input, weight, bias)
