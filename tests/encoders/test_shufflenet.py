"""ShuffleNet: the exchange of channels, both kinds of units by hand, weights in another program's names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perpixel.encoders.shufflenet import ShuffleNet, ShuffleUnit, shuffle, shufflenet_encoder
from perpixel.errors import InputError


def test_shuffle_deals_the_channels_of_all_groups_in_turn():
    maps = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle(maps, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(maps, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_sizes_and_counts():
    encoder = shufflenet_encoder(3)
    features = encoder.eval()(torch.zeros(1, 3, 70, 45))
    assert [tuple(each.shape[1:]) for each in features] == [(24, 18, 12), (384, 9, 6), (768, 5, 3), (1536, 3, 2)]
    # The published 3.51M of LiteSeg are met with biases in all convolutions, and only with them.
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 917_304
    groups = [part.groups for part in encoder.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)]
    assert groups == [1] + [8] * 31


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_a_unit_by_hand(stride):
    torch.manual_seed(0)
    unit = ShuffleUnit(64, 128 if stride == 2 else 64, stride, 8).eval()
    maps = torch.randn(1, 64, 6, 5)
    before = maps.clone()
    residual = F.relu(unit.norm1(unit.compress(maps)))
    residual = residual.view(1, 8, -1, *maps.shape[2:]).permute(0, 2, 1, 3, 4).flatten(1, 2)
    residual = unit.norm3(unit.expand(unit.norm2(unit.depthwise(residual))))
    if stride == 1:
        expected = F.relu(maps + residual)
    else:
        expected = torch.cat([F.relu(F.avg_pool2d(maps, 3, 2, 1)), F.relu(residual)], 1)
    assert torch.allclose(unit(maps), expected, atol=1e-6)
    assert torch.equal(maps, before)


@torch.no_grad()
def test_weights_in_other_names_are_taken_in_order(tmp_path):
    torch.manual_seed(0)
    theirs = ShuffleNet(3)
    tensors = [value for value in theirs.state_dict().values() if value.ndim]  # torch 0.4 saved no counters of batches
    state = {f"module.layer_{number}": value for number, value in enumerate(tensors)}
    torch.save(state | {"module.fc.weight": torch.zeros(1000, 1536)}, tmp_path / "theirs.pth")
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    image = torch.randn(1, 3, 40, 40)
    expected = theirs.eval()(image)[-1]
    for name in ("theirs", "own"):
        assert torch.equal(shufflenet_encoder(3, tmp_path / f"{name}.pth").eval()(image)[-1], expected)
    grey = shufflenet_encoder(1, tmp_path / "theirs.pth").eval()
    assert torch.allclose(grey.net.conv1.weight[:, 0], theirs.conv1.weight.sum(1), atol=1e-6)


def test_tensors_of_another_shape_are_refused(tmp_path):
    state = dict(ShuffleNet(3).state_dict())
    torch.save({f"x.{name}": torch.zeros(2, 2) for name in state}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: tensor 'conv1.weight' is \(2, 2\), encoder 'shufflenet' needs"):
        shufflenet_encoder(3, tmp_path / "other.pth")
    with pytest.raises(InputError, match="weights='imagenet' of encoder 'shufflenet'"):
        shufflenet_encoder(3, "imagenet")
