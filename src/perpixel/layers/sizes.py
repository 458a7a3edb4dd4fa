"""Size arithmetic: how many pixels a convolution, a pool and a transposed convolution return, and where they lie.

Everything here is whole-number or half-pixel arithmetic on one axis; it is what crop offsets and receptive fields
are derived from instead of being copied from papers.
"""

from __future__ import annotations


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Pixels that a convolution returns for `size` pixels; below 1 the input is too small."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pool_size(size: int, kernel: int, stride: int, padding: int = 0, *, ceil_mode: bool = False) -> int:
    """Pixels that a pool returns; with `ceil_mode` a last window may hang over the end, but must start inside."""
    reach = size + 2 * padding - kernel
    count = (-(-reach // stride) if ceil_mode else reach // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def transposed_size(size: int, kernel: int, stride: int, padding: int = 0, output_padding: int = 0) -> int:
    """Pixels that a transposed convolution returns: (size - 1) * stride - 2 * padding + kernel + output_padding."""
    return (size - 1) * stride - 2 * padding + kernel + output_padding


def conv_centre(centre: float, step: float, kernel: int, padding: int = 0) -> float:
    """Input position of the first output's centre, given the first input's centre and the step between inputs.

    A layer (kernel k, padding p) sees its first output at (k - 1) / 2 - p of its own inputs. Its step is the
    stride times the step before.
    """
    return centre + step * ((kernel - 1) / 2 - padding)


def transposed_centre(centre: float, kernel: int, step: float, padding: int = 0) -> float:
    """Input position of output 0 of a transposed convolution, the inverse of `conv_centre`.

    Args:
        centre: position of the first input cell.
        step: distance between output cells after the layer.
    """
    return centre - step * ((kernel - 1) / 2 - padding)
