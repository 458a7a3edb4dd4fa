"""Our ResNets: torchvision's numbers with torchvision's weights, the three variants, dilation, multi-grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from perpixel.encoders import create_encoder, resnet_encoder
from perpixel.encoders.resnet import ResNet
from perpixel.errors import InputError


def image(channels: int = 3) -> Tensor:
    return torch.randn(1, channels, 64, 96, generator=torch.Generator().manual_seed(0))


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch statistics other than 0 and 1, so that a forgotten one would show."""
    generator = torch.Generator().manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def dilations(net: nn.Module, layer: str) -> list[int]:
    """Of the 3x3 convolutions of a stage, unit by unit."""
    convs = [part for part in net.get_submodule(layer).modules() if isinstance(part, nn.Conv2d)]
    return [conv.dilation[0] for conv in convs if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_variant_b_is_torchvisions(name: str, tmp_path: Path) -> None:
    theirs = with_statistics(models.get_model(name))
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    ours = create_encoder(name, variant="b", weights=tmp_path / "net.pth").eval()
    maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image()))))
    for number, feature in enumerate(ours(image())[1:], start=1):
        maps = getattr(theirs, f"layer{number}")(maps)
        assert torch.allclose(feature, maps, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_variant_c_is_timms_resnet50s_also_when_dilated() -> None:
    theirs = with_statistics(timm.create_model("resnet50s", num_classes=0))
    ours = resnet_encoder("resnet50", variant="c").eval()
    ours.net.load_state_dict(theirs.state_dict())
    assert torch.allclose(ours(image())[-1], theirs.forward_features(image()), atol=1e-5, rtol=1e-5)
    assert ours.channels == [128, 256, 512, 1024, 2048]


@torch.no_grad()
def test_keep_first_dilates_as_torchvision_does() -> None:
    theirs = with_statistics(models.resnet50(replace_stride_with_dilation=[False, True, True]))
    ours = resnet_encoder("resnet50", output_stride=8, keep_first=True).eval()
    ours.net.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image()))))
    maps = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(maps))))
    assert torch.allclose(ours(image())[-1], maps, atol=1e-5, rtol=1e-5)


def test_variants_put_the_stride_where_their_source_does() -> None:
    a, b = (resnet_encoder("resnet50", variant=variant).net for variant in ("a", "b"))
    strides = [[unit.conv1.stride[0], unit.conv2.stride[0]] for unit in (a.layer2[0], b.layer2[0])]
    assert strides == [[2, 1], [1, 2]]
    assert a.maxpool.ceil_mode and a.maxpool.padding == 0
    assert not b.maxpool.ceil_mode and b.maxpool.padding == 1


@pytest.mark.parametrize(
    ("stride", "grid", "layer3", "layer4"),
    [
        (32, (1,), [1] * 6, [1, 1, 1]),
        (16, (1,), [1] * 6, [2, 2, 2]),
        (8, (1,), [2] * 6, [4, 4, 4]),
        (16, (1, 2, 4), [1] * 6, [2, 4, 8]),
        (8, (1, 2, 4), [2] * 6, [4, 8, 16]),
    ],
)
def test_dilation_in_place_of_strides(stride: int, grid: tuple[int, ...], layer3: list[int], layer4: list[int]) -> None:
    encoder = resnet_encoder("resnet50", output_stride=stride, multi_grid=grid)
    assert dilations(encoder.net, "layer3") == layer3
    assert dilations(encoder.net, "layer4") == layer4
    assert encoder.strides == [min(step, stride) for step in (2, 4, 8, 16, 32)]
    sizes = [tuple(feature.shape[-2:]) for feature in encoder.eval()(image())]
    assert sizes == [(64 // step, 96 // step) for step in encoder.strides]


def test_dilating_changes_no_tensor() -> None:
    shapes = [
        {name: value.shape for name, value in resnet_encoder("resnet18", output_stride=stride).state_dict().items()}
        for stride in (8, 16, 32)
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_pretrained_stem_takes_other_channels(tmp_path: Path) -> None:
    theirs = models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    grey = resnet_encoder("resnet18", in_channels=1, weights=tmp_path / "net.pth")
    assert isinstance(grey.net, ResNet)
    assert torch.allclose(grey.net.conv1.weight, theirs.conv1.weight.sum(1, keepdim=True))


def test_depth_stops_early() -> None:
    encoder = resnet_encoder("resnet18", depth=3)
    assert encoder.strides == [2, 4, 8]
    assert [tuple(feature.shape[1:]) for feature in encoder(image())] == [(64, 32, 48), (64, 16, 24), (128, 8, 12)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg16"}, "encoder 'vgg16' has no ResNet variants: choose resnet18"),
        ({"variant": "d"}, "variant='d' of encoder 'resnet50': choose 'a', 'b' or 'c'"),
        ({"output_stride": 4}, "output_stride 4 of encoder 'resnet50': choose 8, 16 or 32"),
        ({"multi_grid": (0, 1)}, r"multi_grid \(0, 1\) of encoder 'resnet50'"),
        ({"variant": "a", "weights": "imagenet"}, "nobody offers weights of variant 'a'"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resnet_encoder(**{"name": "resnet50", **options})
