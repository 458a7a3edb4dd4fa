"""The bilinear transposed convolution, by hand, against interpolation, and stored in both forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample, bilinear_kernel, transposed_size


def test_kernel_of_factor_2_and_3_by_hand():
    assert bilinear_kernel(2)[0].tolist() == [0.0625, 0.1875, 0.1875, 0.0625]
    row = torch.tensor([1, 2, 3, 2, 1]) / 3
    assert torch.allclose(bilinear_kernel(3), torch.outer(row, row))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 16, 32])
def test_kernel_size_and_sum(factor):
    kernel = bilinear_kernel(factor)
    assert kernel.shape == (2 * factor - factor % 2,) * 2
    assert kernel.sum().item() == pytest.approx(factor**2, rel=1e-6)


def test_kernel_refuses_factor_zero():
    with pytest.raises(InputError, match="upsampling factor 0"):
        bilinear_kernel(0)


@pytest.mark.parametrize("factor", [2, 4, 8, 32])
def test_interior_is_half_pixel_interpolation(factor):
    scores = torch.randn(1, 2, 4, 5)
    made = BilinearUpsample(2, factor)(scores)
    half = factor // 2
    expected = F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = made[..., half:-half, half:-half]
    assert inner.shape == expected.shape
    assert torch.allclose(inner[..., half:-half, half:-half], expected[..., half:-half, half:-half], atol=1e-6)


def test_constant_scores_stay_constant_inside():
    made = BilinearUpsample(1, 8)(torch.full((1, 1, 3, 3), 2.5))
    assert torch.allclose(made[..., 8:-8, 8:-8], torch.tensor(2.5))


def test_odd_kernel_of_alexnet_hits_the_cells():
    scores = torch.randn(1, 1, 3, 3)
    made = BilinearUpsample(1, 32, kernel_size=63)(scores)
    assert made.shape[-1] == transposed_size(3, 63, 32) == 127
    assert torch.allclose(made[..., 31::32, 31::32], scores, atol=1e-6)


@pytest.mark.parametrize(("factor", "padding"), [(2, 0), (2, 1), (3, 1), (8, 4)])
def test_grouped_and_dense_storage_agree(factor, padding):
    scores = torch.randn(2, 5, 4, 3)
    frozen, learned = (BilinearUpsample(5, factor, learned=flag, padding=padding) for flag in (False, True))
    assert frozen.weight.shape[1] == 1
    assert learned.weight.shape[1] == 5
    assert torch.equal(frozen.dense_weight(), learned.weight)
    assert torch.allclose(frozen(scores), learned(scores), atol=1e-6)
    assert frozen(scores).shape[-1] == transposed_size(3, frozen.kernel_size, factor, padding)


def test_only_the_learned_form_has_parameters():
    assert not list(BilinearUpsample(3, 2).parameters())
    assert [each.shape for each in BilinearUpsample(3, 2, learned=True).parameters()] == [(3, 3, 4, 4)]


def test_each_form_loads_the_other():
    frozen, learned = BilinearUpsample(3, 2), BilinearUpsample(3, 2, learned=True)
    frozen.weight.mul_(2)
    learned.load_state_dict(frozen.state_dict())
    assert torch.equal(learned.weight, frozen.dense_weight())
    frozen.reset()
    frozen.load_state_dict(learned.state_dict())
    assert torch.equal(frozen.dense_weight(), learned.weight)


def test_a_kernel_that_mixes_channels_is_refused_when_frozen():
    state = {"weight": torch.ones(3, 3, 4, 4)}
    with pytest.raises(InputError, match="mixes channels"):
        BilinearUpsample(3, 2).load_state_dict(state)


def test_result_keeps_channels_last():
    scores = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert BilinearUpsample(8, 4)(scores).is_contiguous(memory_format=torch.channels_last)
