"""Fully connected layers as convolutions: the worked example 224 -> 384, and torchvision's classifiers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import AlexNet, GoogLeNet
from torchvision.models.vgg import VGG, make_layers

from perpixel.errors import InputError
from perpixel.layers import convolutionalise, linear_to_conv


def unpadded_classifier() -> nn.Sequential:
    """224 pixels -> a 7x7 map at stride 32, without any padding -> 5 classes."""
    widths = (3, 4, 6, 6, 6, 8)
    convs = [part for old, new in pairwise(widths) for part in (nn.Conv2d(old, new, 2, 2), nn.ReLU())]
    linear = [nn.Linear(8 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)]
    return nn.Sequential(*convs, nn.Flatten(), *linear).eval()


def small_vgg() -> VGG:
    """torchvision's VGG with narrow layers and its 7x7 adaptive pool."""
    net = VGG(make_layers([4, "M", 4, "M", 8, "M", 8, "M", 8, "M"]), init_weights=False)
    net.classifier = nn.Sequential(nn.Linear(8 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))
    return net.eval()


def small_alexnet() -> AlexNet:
    net = AlexNet(num_classes=5)
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(256 * 36, 16), nn.ReLU(inplace=True), nn.Linear(16, 5))
    return net.eval()


def small_googlenet() -> GoogLeNet:
    return GoogLeNet(num_classes=5, aux_logits=True, init_weights=False).eval()


@torch.no_grad()
def test_384_pixels_give_the_6x6_answers_of_224_pixel_crops_at_step_32():
    classifier = unpadded_classifier()
    image = torch.randn(1, 3, 384, 384)
    answers = convolutionalise(classifier)(image)
    assert answers.shape == (1, 5, 6, 6)
    for row in range(6):
        for col in range(6):
            crop = image[..., 32 * row : 32 * row + 224, 32 * col : 32 * col + 224]
            assert torch.allclose(answers[..., row, col], classifier(crop), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("build", [small_vgg, small_alexnet, small_googlenet])
def test_torchvision_classifiers_give_the_same_answer_at_224_and_6x6_at_384(build: Callable[[], nn.Module]):
    classifier = build()
    made = convolutionalise(classifier)
    image = torch.randn(2, 3, 224, 224)
    assert torch.allclose(made(image)[..., 0, 0], classifier(image), atol=1e-4)
    assert made(torch.zeros(1, 3, 384, 384)).shape == (1, 5, 6, 6)
    assert not any(isinstance(part, nn.Linear) for part in made.modules())


@torch.no_grad()
def test_what_a_pretrained_googlenet_does_to_the_colours_is_kept():
    classifier = GoogLeNet(num_classes=5, aux_logits=False, transform_input=True, init_weights=False).eval()
    made = convolutionalise(classifier)
    image = torch.randn(2, 3, 8, 9)
    name, first = next(made.named_children())
    assert name == "colours"
    assert torch.allclose(first(image), classifier._transform_input(image), atol=1e-6)


def test_a_frozen_part_stays_frozen_and_the_rest_in_training():
    classifier = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    classifier[1].eval()
    convolutionalise(classifier, input_size=2)
    assert [part.training for part in classifier] == [True, False, True, True]


@torch.no_grad()
def test_a_padded_trunk_answers_alike_wherever_the_image_is_cut():
    """Padding spoils what sees the border: crops do, the inner answers of one pass over a larger image do not."""
    torch.manual_seed(0)
    classifier = small_vgg()
    made = convolutionalise(classifier)
    image = torch.randn(1, 3, 448, 448)
    # An answer sees 286 pixels, from 31 above and left of its window on: those of the middle see no border.
    whole, cut = made(image), made(image[..., 32:416, 32:416])
    assert whole.shape == (1, 5, 8, 8)
    assert cut.shape == (1, 5, 6, 6)
    spread = whole[..., 1:7, 1:7].std().item()
    assert torch.allclose(whole[..., 2:6, 2:6], cut[..., 1:5, 1:5], atol=1e-3 * spread)
    assert not torch.allclose(whole[..., 1, 1], cut[..., 0, 0], atol=0.01 * spread)
    assert not torch.allclose(cut[..., 2, 2], classifier(image[..., 96:320, 96:320]), atol=0.01 * spread)


@torch.no_grad()
@pytest.mark.parametrize("build", [unpadded_classifier, small_vgg, small_alexnet, small_googlenet])
def test_another_answer_for_every_32_pixels(build: Callable[[], nn.Module]):
    made = convolutionalise(build()).to("meta")
    for size, cells in ((224, 1), (256, 2), (384, 6), (640, 14)):
        assert made(torch.empty(2, 3, size, 224, device="meta")).shape == (2, 5, cells, 1)


@torch.no_grad()
def test_a_pool_into_cells_becomes_a_sliding_pool_and_a_dilated_convolution():
    classifier = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)
    ).eval()
    made = convolutionalise(classifier, input_size=6)
    image = torch.randn(1, 1, 9, 8)
    answers = made(image)
    assert answers.shape == (1, 4, 4, 3)
    assert torch.allclose(answers[..., 3, 2], classifier(image[..., 3:9, 2:8]), atol=1e-5)


def test_the_weights_are_copies():
    classifier = unpadded_classifier()
    made = convolutionalise(classifier)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_the_mode_is_kept():
    classifier = unpadded_classifier().train()
    made = convolutionalise(classifier)
    assert made.training
    assert classifier.training


def test_linear_to_conv_is_channel_major():
    linear = nn.Linear(2 * 3 * 4, 5)
    conv = linear_to_conv(linear, 2, (3, 4))
    maps = torch.randn(1, 2, 3, 4)
    assert torch.allclose(conv(maps).flatten(1), linear(maps.flatten(1)), atol=1e-6)


@pytest.mark.parametrize(
    ("classifier", "size", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3)), 8, "no convolution or no linear layer"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), 8, "linear layer of 8 inputs .* 2x6x6"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2), nn.Softmax(1)), 8, r"'3' \(Softmax\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32, 2)), 8, "unequal"),
        (nn.Sequential(nn.Conv2d(1, 2, 9), nn.Flatten(), nn.Linear(2, 2)), 8, "does not take a map"),
    ],
)
def test_what_cannot_be_converted_is_named(classifier, size, message):
    with pytest.raises(InputError, match=message):
        convolutionalise(classifier, input_size=size)


def test_a_forward_that_differs_from_the_order_of_the_children_is_noticed():
    class Twisted(nn.Sequential):
        def forward(self, input):
            return -super().forward(input)

    with pytest.raises(InputError, match="Twisted does not run its children in order"):
        convolutionalise(Twisted(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)), input_size=8)
