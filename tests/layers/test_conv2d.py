"""2-D convolutions in bf16 on maps that are narrower than the kernel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from perpixel.layers import guard_convolutions

NEAR = 0.03  # of the norm; eight-bit mantissas leave 0.003


def weight_gradient(layer: nn.Conv2d, image: torch.Tensor, *, in_bf16: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        maps = layer(image)
    given = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    return torch.autograd.grad(maps, layer.weight, given.to(maps.dtype))[0]


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (2, 2), (9, 2), (3, 3), (16, 16)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_gradients_are_those_of_fp32(size: tuple[int, int], dilation: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 32, 3, padding=dilation, dilation=dilation)
    image = torch.randn(2, 24, *size).bfloat16().float()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    exact = weight_gradient(layer, image, in_bf16=False)
    guard_convolutions(layer)
    found = weight_gradient(layer, image, in_bf16=True)
    assert float((found - exact).norm() / exact.norm()) < NEAR


def test_names_and_results_stay_and_copies_are_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 2, 1))
    image, names = torch.randn(1, 3, 5, 5), list(model.state_dict())
    before = model(image)
    guard_convolutions(model)
    twin = copy.deepcopy(model)
    assert list(model.state_dict()) == names and torch.equal(model(image), before)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert torch.equal(model(image), before) and not torch.equal(twin(image), before)
