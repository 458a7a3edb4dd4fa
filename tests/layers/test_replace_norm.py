"""Batch normalisation frozen or replaced: same numbers, nothing to train, activations kept."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.layers.replace_norm import FrozenBatchNorm2d, GroupNormAct, replace_batch_norm


def lively(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.running_mean.normal_(0, 1, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        norm.weight.uniform_(0.5, 2, generator=generator)
        norm.bias.normal_(0, 1, generator=generator)
    return norm


def test_frozen_is_batch_normalisation_in_eval_mode_in_either_mode():
    norm = lively(nn.BatchNorm2d(6))
    net = nn.Sequential(nn.Conv2d(3, 6, 1), norm)
    image = torch.randn(2, 3, 4, 5)
    expected = net.eval()(image)
    assert replace_batch_norm(net, "frozen") == 1
    for mode in (True, False):
        assert torch.equal(net.train(mode)(image), expected)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert torch.equal(net[1].running_mean, norm.running_mean)  # two batches in train mode moved nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_batch_normalisation_and_keeps_no_maps(dtype):
    norm = lively(nn.BatchNorm2d(6)).eval()
    net = nn.Sequential(lively(nn.BatchNorm2d(6)))
    replace_batch_norm(net, "frozen")
    found, kept = [], []
    for part in (norm, net):
        maps = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value, s=sizes: s.append(value.numel()) or value, lambda v: v
        ):
            answer = part(maps)
        answer.backward(torch.arange(240.0).view(2, 6, 4, 5).to(dtype))
        assert answer.dtype == maps.grad.dtype == dtype
        found.append((answer.detach(), maps.grad))
        kept.append(max(sizes))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1].float(), found[1][1].float(), rtol=1e-5 if dtype == torch.float32 else 1e-2)
    assert kept == [240, 6]


def test_by_hand_and_eps():
    frozen = FrozenBatchNorm2d(1, eps=0.0)
    assert frozen.is_new()
    frozen.running_mean.fill_(1.0)
    frozen.running_var.fill_(4.0)
    frozen.weight.fill_(3.0)
    frozen.bias.fill_(0.5)
    assert not frozen.is_new()
    assert frozen(torch.full((1, 1, 1, 1), 5.0)).item() == 3 * (5 - 1) / 2 + 0.5
    net = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1, eps=1e-3))
    assert replace_batch_norm(net, "batch", eps=0.0) == 2 and [part.eps for part in net] == [0.0, 0.0]
    net = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1, eps=1e-3))
    replace_batch_norm(net, "frozen")
    assert [part.eps for part in net] == [1e-5, 1e-3]


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 8), (7, 1)])
def test_group_normalisation_divides_the_channels(channels, groups):
    net = nn.Sequential(lively(nn.BatchNorm2d(channels)))
    weight = net[0].weight.clone()
    replace_batch_norm(net, "group")
    assert isinstance(net[0], GroupNormAct) and net[0].num_groups == groups
    assert torch.equal(net[0].weight, weight) and net[0].weight.requires_grad
    maps = net(5 + 3 * torch.randn(2, channels, 8, 8))
    plain = (maps - net[0].bias[:, None, None]) / weight[:, None, None]
    assert plain.reshape(2, groups, -1).mean(-1).abs().max() < 1e-4


@torch.no_grad()
def test_the_activation_inside_timm_s_normalisation_is_kept():
    net = timm.create_model("efficientnet_b0", features_only=True, pretrained=False).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            lively(part)
            part.running_var.mul_(4)
    image = torch.randn(1, 3, 64, 64)
    expected = net(image)
    assert replace_batch_norm(net, "frozen") > 40
    for mine, theirs in zip(net(image), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def test_unknown_norms_are_refused():
    with pytest.raises(InputError, match="norm 'layer': choose one of frozen, batch, group"):
        replace_batch_norm(nn.Sequential(), "layer")
