"""Cropping and padding one map to another's size."""

from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.layers import crop_like, fit_like, mirror_to, pad_to_least, pad_to_like, pad_to_multiple


def numbered(height: int, width: int) -> torch.Tensor:
    return torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)


def test_crop_like_takes_the_centre_by_default():
    assert crop_like(numbered(4, 4), numbered(2, 2)).flatten().tolist() == [5, 6, 9, 10]


def test_crop_like_takes_an_offset_as_caffe_does():
    assert crop_like(numbered(4, 4), numbered(2, 2), 2).flatten().tolist() == [10, 11, 14, 15]
    assert crop_like(numbered(4, 4), numbered(1, 2), (3, 0)).flatten().tolist() == [12, 13]


@pytest.mark.parametrize(("offset", "need"), [(3, "at least 5x5"), (None, "at least"), ((0, 3), "at least 2x5")])
def test_crop_like_refuses_a_map_that_is_too_small(offset, need):
    like = numbered(6, 6) if offset is None else numbered(2, 2)
    with pytest.raises(InputError, match=need):
        crop_like(numbered(4, 4), like, offset)


def test_pad_to_like_adds_zeros_at_the_end():
    assert pad_to_like(numbered(2, 2) + 1, numbered(3, 3))[0, 0].tolist() == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]
    with pytest.raises(InputError, match="map of 3x2 cannot be padded to 2x2"):
        pad_to_like(numbered(3, 2), numbered(2, 2))


def test_fit_like_cuts_one_side_and_pads_the_other():
    assert fit_like(numbered(3, 1) + 1, numbered(2, 2))[0, 0].tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (8, 8)), ((8, 16), (8, 16)), ((9, 7), (16, 8))])
def test_pad_to_multiple(size, padded):
    assert tuple(pad_to_multiple(numbered(*size), 8).shape[2:]) == padded


@pytest.mark.parametrize(("side", "padded"), [(1, 1), (2, 9), (8, 9), (9, 9), (10, 17)])
def test_pad_to_multiple_with_a_remainder(side, padded):
    assert tuple(pad_to_multiple(numbered(side, 9), 8, 1).shape[2:]) == (padded, 9)


@pytest.mark.parametrize(
    ("width", "mirrored"),
    [(4, [2, 1, 0, 1, 2, 3, 2, 1, 0]), (2, [0, 1, 0, 1, 0, 1, 0, 1, 0]), (1, [0] * 9)],
)
def test_mirror_to_repeats_no_edge_and_turns_as_often_as_needed(width, mirrored):
    assert mirror_to(numbered(1, width), (1, 9), 2)[0, 0, 0].tolist() == mirrored


def test_padding_keeps_what_already_fits_and_the_memory_format():
    image = torch.zeros(2, 3, 8, 8).to(memory_format=torch.channels_last)
    assert pad_to_multiple(image, 8) is image
    assert pad_to_least(image, 5) is image
    assert pad_to_least(image, 9).is_contiguous(memory_format=torch.channels_last)
    assert pad_to_multiple(image, 5).is_contiguous(memory_format=torch.channels_last)
