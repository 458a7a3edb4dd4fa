"""Sizes of volumes, and their normalisation."""

from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.layers import cut_middle, cut_volume, enlarge, make_norm3d, pad_for_pools


def test_padding_to_multiples_is_at_the_end_and_zero():
    volume = torch.ones(1, 1, 3, 4, 5)
    padded = pad_for_pools(volume, (2, 4, 8), has_norm=False)
    assert padded.shape == (1, 1, 4, 4, 8)
    assert padded.sum() == 60 and cut_volume(padded, volume).equal(volume)
    assert pad_for_pools(padded, (2, 4, 8), has_norm=False) is padded


def test_normalisation_has_two_voxels_at_the_deepest_stage():
    tiny = torch.ones(1, 1, 1, 2, 2)
    assert pad_for_pools(tiny, (2, 2, 2), has_norm=False).shape[2:] == (2, 2, 2)
    assert pad_for_pools(tiny, (2, 2, 2), has_norm=True).shape[2:] == (2, 2, 4)
    assert pad_for_pools(torch.ones(1, 1, 3, 2, 2), (2, 2, 2), has_norm=True).shape[2:] == (4, 2, 2)


def test_cutting_the_middle():
    volume = torch.arange(5.0).expand(1, 1, 5, 5, 5)
    assert cut_middle(volume, torch.zeros(1, 1, 3, 5, 1)).flatten().tolist() == [2.0] * 15


def test_enlarging_is_linear_with_the_outer_corners_on_each_other():
    line = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)
    assert enlarge(line, torch.zeros(1, 1, 1, 1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_norms():
    volume = torch.randn(2, 3, 4, 5, 6) * 3 + 1
    assert make_norm3d("none", 3)(volume) is volume
    alone = make_norm3d("instance", 3)(volume)
    assert alone.mean((2, 3, 4)).abs().max() < 1e-5
    assert make_norm3d("batch", 3)(volume).mean((0, 2, 3, 4)).abs().max() < 1e-5
    with pytest.raises(InputError, match="batch of 1 with a 1x1x1 feature map"):
        make_norm3d("batch", 3)(volume[:1, :, :1, :1, :1])
