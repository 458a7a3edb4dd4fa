"""Size arithmetic against torch itself."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from perpixel.layers import conv_centre, conv_size, pool_size, transposed_centre, transposed_size


def length(layer: nn.Module, size: int) -> int:
    return layer(torch.zeros(1, 1, size)).shape[-1]


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2))
def test_conv_size_is_torchs(size, kernel, stride, padding, dilation):
    conv = nn.Conv1d(1, 1, kernel, stride, padding, dilation)
    assert conv_size(size, kernel, stride, padding, dilation) == length(conv, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 40), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_pool_size_is_torchs(size, kernel, stride, ceil_mode):
    for padding in range(kernel // 2 + 1):
        pool = nn.MaxPool1d(kernel, stride, padding, ceil_mode=ceil_mode)
        assert pool_size(size, kernel, stride, padding, ceil_mode=ceil_mode) == length(pool, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1))
def test_transposed_size_is_torchs(size, kernel, stride, padding):
    expected = transposed_size(size, kernel, stride, padding)
    if expected >= 1:
        assert expected == length(nn.ConvTranspose1d(1, 1, kernel, stride, padding), size)


def test_centres_of_a_convolution_and_its_transpose_undo_each_other():
    centre = conv_centre(-3.5, 4, kernel=5, padding=1)
    assert centre == -3.5 + 4 * (2 - 1)
    assert transposed_centre(centre, kernel=5, step=4, padding=1) == -3.5
