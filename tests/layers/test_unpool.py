"""Pooling with places and unpooling, against torch's pair with indices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perpixel.layers import max_pool_places, unpool_places

SIZES = [(4, 6), (5, 7), (1, 1), (1, 8), (9, 2), (23, 30)]


def there_and_back(maps: Tensor) -> Tensor:
    values, places = max_pool_places(maps)
    return unpool_places(values.square(), places, (maps.shape[-2], maps.shape[-1]))


def there_and_back_in_torch(maps: Tensor) -> Tensor:
    values, indices = F.max_pool2d(maps, 2, 2, ceil_mode=True, return_indices=True)
    return F.max_unpool2d(values.square(), indices, 2, 2, output_size=maps.shape[-2:])


def test_places_by_hand():
    maps = torch.tensor([[3.0, 5, 0, 1], [2, 4, 1, 0], [1, 0, 2, 3], [7, 6, 5, 8]])[None, None]
    values, places = max_pool_places(maps)
    assert values[0, 0].tolist() == [[5, 1], [7, 8]]
    assert places[0, 0].tolist() == [[1, 1], [2, 3]]
    assert places.dtype == torch.uint8
    back = unpool_places(torch.tensor([[[[10.0, 20], [30, 40]]]]), places, (4, 4))
    assert back[0, 0].tolist() == [[0, 10, 0, 20], [0, 0, 0, 0], [0, 0, 0, 0], [30, 0, 0, 40]]


def test_odd_sides_round_up_and_choose_nothing_outside():
    maps = torch.tensor([[-1.0, -2, -3], [-4, -5, -6], [-7, -8, -9]])[None, None]
    values, places = max_pool_places(maps)
    assert values[0, 0].tolist() == [[-1, -3], [-7, -9]]
    assert not places.any()
    assert unpool_places(values, places, (3, 3))[0, 0].tolist() == [[-1, 0, -3], [0, 0, 0], [-7, 0, -9]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("has_ties", [False, True])
def test_values_and_gradients_are_torchs(size, has_ties, memory_format, dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, *size, generator=generator)
    if has_ties:
        maps = maps.round().clamp(-1, 0)  # hardly a window without two equal maxima
    mine = maps.to(dtype, memory_format=memory_format).requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    values, indices = F.max_pool2d(theirs, 2, 2, ceil_mode=True, return_indices=True)
    own_values, places = max_pool_places(mine)
    assert torch.equal(own_values, values)
    row, col = torch.div(indices, size[1], rounding_mode="floor") % 2, indices % size[1] % 2
    assert torch.equal(places, (2 * row + col).to(torch.uint8))

    back, expected = there_and_back(mine), there_and_back_in_torch(theirs)
    assert back.dtype == dtype
    assert torch.equal(back, expected)
    gradient = torch.randn(back.shape, generator=generator).to(dtype)
    back.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(mine.grad, theirs.grad)


def test_the_derivative_is_that_of_the_values():
    maps = torch.randn(1, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(there_and_back, maps)


def test_nan_stays_to_be_seen():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 0, 1] = float("nan")
    values, places = max_pool_places(maps)
    assert values.isnan().tolist() == [[[[True, False], [False, False]]]]
    back = unpool_places(values, places, (4, 4))
    assert back[0, 0, :2, :2].isnan().any()
    assert back[0, 0, 2:].isfinite().all()


def test_works_without_values():
    """Shapes alone are enough, as when a model is described."""
    values, places = max_pool_places(torch.empty(2, 3, 45, 60, device="meta"))
    assert values.shape == places.shape == (2, 3, 23, 30)
    assert unpool_places(values, places, (45, 60)).shape == (2, 3, 45, 60)
