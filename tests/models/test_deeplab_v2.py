"""DeepLab v2: counts, taps of every branch, sums of scores, the maximum over scales and its gradient, frozen norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vgg import VGG, cfgs, make_layers

from perpixel.errors import InputError
from perpixel.models import DeepLabV2, create_model
from perpixel.models.deeplab_v2 import CARD

SMALL = {"backbone": "resnet18"}


def on_meta(**options) -> nn.Module:
    with torch.device("meta"):
        return create_model("deeplab_v2", **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_parameter_counts():
    """torchvision's ResNet-101 has 44,549,160 parameters, 2,049,000 of them in its classifier."""
    assert count(on_meta()) == 44_549_160 - 2_049_000 + 4 * (2048 * 9 * 21 + 21) == 44_048_532
    assert count(on_meta(multi_scale=True)) == count(on_meta(variant="a")) == 44_048_532
    branch = (512 * 9 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 21 + 21)
    assert count(on_meta(backbone="vgg16")) == 14_714_688 + 4 * branch == 37_877_652
    assert count(on_meta(backbone="vgg16", rates=[12])) == 20_505_429  # DeepLab-LargeFOV


@pytest.mark.parametrize("counted", CARD.counts, ids=lambda counted: counted.label)
def test_counts_of_the_card(counted):
    assert count(on_meta(**counted.options)) == counted.expected


@pytest.mark.parametrize("options", [{}, {"variant": "a"}, {"variant": "c"}, {"backbone": "vgg16"}])
def test_8k_plus_1_pixels_give_k_plus_1_cells(options):
    """The first three sides are those of the paper's crops at scales 1, 0.75 and 0.5."""
    model = on_meta(**options).eval()
    for side, cells in ((321, 41), (241, 31), (161, 21), (1, 1)):
        assert model._scores(torch.empty(1, 3, side, side, device="meta"), 1.0).shape == (1, 21, cells, cells)


@pytest.mark.parametrize(("scale", "cells"), [(1.0, 41), (0.75, 31), (0.5, 21)])
def test_scaled_images_keep_their_corners(scale, cells):
    model = on_meta(multi_scale=True, **SMALL)
    assert model._scores(torch.empty(1, 3, 321, 321, device="meta"), scale).shape[-1] == cells


def test_conv4_is_dilated_by_2_and_conv5_by_4():
    net = on_meta().trunk.net
    assert {unit.conv2.dilation for unit in net.layer3} == {(2, 2)}
    assert {unit.conv2.dilation for unit in net.layer4} == {(4, 4)}


@pytest.mark.parametrize("rates", [(6, 12, 18, 24), (2, 4, 8, 12)])
def test_cells_that_each_branch_reaches(rates):
    model = DeepLabV2(1, 2, rates=rates, **SMALL)
    for rate, branch in zip(rates, model.aspp, strict=True):
        maps = torch.zeros(1, 512, 51, 51, requires_grad=True)
        branch(maps)[0, 0, 25, 25].backward()
        rows, cols = maps.grad[0].abs().sum(0).nonzero().T
        assert sorted(set(rows.tolist())) == [25 - rate, 25, 25 + rate] == sorted(set(cols.tolist()))


@torch.no_grad()
def test_resnet_scores_are_a_plain_sum_wired_by_hand():
    torch.manual_seed(0)
    model = DeepLabV2(3, 4, **SMALL).eval()
    image = torch.randn(1, 3, 30, 41)
    padded = F.pad(image, (0, 0, 0, 3))  # 33 x 41
    maps = model.trunk(padded)[-1]
    scores = sum(
        F.conv2d(maps, branch.weight, branch.bias, padding=rate, dilation=rate)
        for branch, rate in zip(model.aspp, (6, 12, 18, 24))
    )
    assert scores.shape == (1, 4, 5, 6)
    expected = F.interpolate(scores, (33, 41), mode="bilinear", align_corners=True)[:, :, :30]
    assert expected.any()
    assert torch.allclose(model(image), expected, atol=1e-6)


@torch.no_grad()
def test_vgg_branches_are_summed_at_fc8():
    torch.manual_seed(0)
    model = DeepLabV2(3, 4, backbone="vgg16", fc_channels=6, rates=[2, 4]).eval()
    image = torch.randn(1, 3, 17, 25)
    maps = model.trunk(image)
    scores = 0
    for branch, rate in zip(model.aspp, (2, 4)):
        fc6 = F.conv2d(maps, branch.fc6.weight, branch.fc6.bias, padding=rate, dilation=rate).relu()
        scores = scores + branch.fc8(branch.fc7(fc6).relu())
    expected = F.interpolate(scores, (17, 25), mode="bilinear", align_corners=True)
    assert torch.allclose(model(image), expected, atol=1e-6)


def test_start_of_the_class_scores():
    torch.manual_seed(0)
    for options in (SMALL, {"backbone": "vgg16", "fc_channels": 200}):
        model = DeepLabV2(1, 21, **options)
        last = [branch if isinstance(branch, nn.Conv2d) else branch.fc8 for branch in model.aspp]
        assert all(abs(conv.weight.std().item() - 0.01) < 0.001 and not conv.bias.any() for conv in last)


@torch.no_grad()
def test_multi_scale_takes_the_maximum_of_the_logits_over_scales():
    torch.manual_seed(0)
    model = DeepLabV2(3, 4, multi_scale=True, frozen_norm=True, **SMALL)
    assert model.aux_weights == (1.0, 1.0, 1.0)
    image = torch.randn(1, 3, 65, 97)  # 32k + 1
    single = DeepLabV2(3, 4, **SMALL).eval()
    single.load_state_dict(model.state_dict())
    resized = [image, *(F.interpolate(image, size, mode="bilinear", align_corners=True)
                        for size in ((49, 73), (33, 49)))]  # fmt: skip
    scores = [single.aspp(single.trunk(each)[-1]) for each in resized]
    assert [each.shape[-2:] for each in scores] == [(9, 13), (7, 10), (5, 7)]
    full = [F.interpolate(each, (65, 97), mode="bilinear", align_corners=True) for each in scores]
    aligned = [F.interpolate(each, (9, 13), mode="bilinear", align_corners=True) for each in scores]
    maximum = F.interpolate(torch.stack(aligned).amax(0), (65, 97), mode="bilinear", align_corners=True)
    outputs = model.train()(image)
    assert len(outputs) == 4
    for output, expected in zip(outputs, (maximum, *full), strict=True):
        assert torch.allclose(output, expected, atol=1e-5)
    assert torch.allclose(model.eval()(image), maximum, atol=1e-5)


def test_gradient_of_the_maximum_flows_to_the_winner():
    model = DeepLabV2(3, 1, multi_scale=True, **SMALL)
    values = {1.0: [[3.0, 0.0], [0.0, 0.0]], 0.75: [[1.0, 2.0], [-1.0, -1.0]], 0.5: [[0.0, 1.0], [5.0, -1.0]]}
    scores = {scale: torch.tensor(value)[None, None].requires_grad_() for scale, value in values.items()}
    model._scores = lambda image, scale: scores[scale]
    model.train()(torch.zeros(1, 3, 9, 9))[0].sum().backward()
    won = {scale: (score.grad[0, 0] != 0).tolist() for scale, score in scores.items()}
    assert won[1.0] == [[True, False], [False, True]]
    assert won[0.75] == [[False, True], [False, False]]
    assert won[0.5] == [[False, False], [True, False]]


def test_single_scale_gives_one_tensor_in_training():
    model = DeepLabV2(3, 2, **SMALL)
    assert model.aux_weights == ()
    assert model.train()(torch.randn(2, 3, 20, 9)).shape == (2, 2, 20, 9)


def test_frozen_norm_keeps_statistics_and_affine_parameters():
    torch.manual_seed(0)
    model = DeepLabV2(3, 2, frozen_norm=True, **SMALL)
    before = {name: value.clone() for name, value in model.trunk.named_buffers()}
    image = torch.randn(2, 3, 33, 33)
    logits = model.train()(image)
    assert model.training and model.aspp.training and not model.trunk.training
    logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.trunk.named_buffers())
    assert model.trunk.net.conv1.weight.grad.any()
    assert {part.weight.requires_grad for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {False}
    assert torch.equal(model.eval()(image), logits)
    assert model.train()(torch.randn(1, 3, 1, 1)).shape == (1, 2, 1, 1)
    with pytest.raises(InputError, match="batch of 1 with a 1x1 feature map"):
        DeepLabV2(3, 2, **SMALL).train()(torch.randn(1, 3, 1, 1))


def test_variant_a_has_the_padded_pool_of_the_release():
    pool = on_meta(variant="a").trunk.net.maxpool
    assert (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, 2, 1, True)


def test_align_corners_is_an_option():
    torch.manual_seed(0)
    model = DeepLabV2(3, 2, multi_scale=True, align_corners=False, **SMALL).eval()
    image = torch.randn(1, 3, 33, 33)
    other = model(image)
    assert other.shape == (1, 2, 33, 33)
    model.align_corners = True
    assert not torch.allclose(model(image), other, atol=1e-4)


@torch.no_grad()
def test_weights_of_the_backbones(tmp_path):
    torch.manual_seed(0)
    net = resnet18(weights=None)
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    model = DeepLabV2(3, 2, weights=tmp_path / "resnet18.pth", **SMALL)
    assert torch.equal(model.trunk.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    with torch.device("meta"):
        vgg = VGG(nn.Sequential(), init_weights=False)
    vgg.features = make_layers(cfgs["D"])
    vgg.classifier = nn.Sequential(nn.Linear(512 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8))
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    options = {"backbone": "vgg16", "fc_channels": 4, "rates": [2, 4]}
    model = DeepLabV2(3, 2, weights=tmp_path / "vgg16.pth", **options)
    expected = vgg.classifier[0].weight.reshape(8, 512, 7, 7)[::2, :, ::3, ::3]
    assert all(torch.equal(branch.fc6.weight, expected) for branch in model.aspp)
    assert torch.equal(model.trunk.conv1.conv1_1.weight, vgg.features[0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg19"}, "option backbone='vgg19' of deeplab_v2: choose resnet18, .* or vgg16"),
        ({"variant": "d"}, "variant='d' of encoder 'resnet101'"),
        ({"backbone": "vgg16", "variant": "a"}, "option variant='a' of deeplab_v2 with backbone='vgg16'"),
        ({"backbone": "vgg16", "frozen_norm": True}, "option frozen_norm=true of deeplab_v2 with backbone='vgg16'"),
        ({"rates": []}, r"option rates=\[\] of deeplab_v2"),
        ({"rates": [6, 0]}, r"option rates=\[6, 0\] of deeplab_v2"),
        ({"scales": [0.5, 1.0]}, r"option scales=\[0.5, 1.0\] of deeplab_v2: give 1 first"),
        ({"scales": [1.0, 0.0]}, "option scales"),
        ({"scales": [1.0, 0.5]}, r"option scales=\[1\.0, 0\.5\] of deeplab_v2 without multi_scale"),
        ({"fc_channels": 8}, "option fc_channels=8 of deeplab_v2 with backbone='resnet101': it is for vgg16"),
        ({"dropout": 0.1}, r"option dropout=0\.1 of deeplab_v2 with backbone='resnet101'"),
        ({"fc_channels": 0}, "option fc_channels=0"),
        ({"dropout": 1.5}, r"option dropout=1\.5"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        on_meta(**options)
