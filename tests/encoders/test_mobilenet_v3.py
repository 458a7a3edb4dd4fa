"""MobileNetV3 cut for segmentation: torchvision's own taps, its weights, any size."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_small
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from perpixel.encoders import create_encoder
from perpixel.errors import InputError


@pytest.mark.parametrize(
    ("name", "channels"), [("mobilenet_v3_large", [16, 24, 40, 80, 960]), ("mobilenet_v3_small", [16, 16, 24, 40, 576])]
)
@pytest.mark.parametrize(("output_stride", "strides"), [(32, [2, 4, 8, 16, 32]), (16, [2, 4, 8, 16, 16])])
@torch.no_grad()
def test_sizes_are_rounded_up_at_any_size(name, channels, output_stride, strides):
    encoder = create_encoder(name, in_channels=2, output_stride=output_stride).eval()
    assert (encoder.channels, encoder.strides, encoder.takes_any_size) == (channels, strides, True)
    for height, width in ((1, 1), (33, 65)):
        features = encoder(torch.randn(1, 2, height, width))
        assert [tuple(each.shape[1:]) for each in features] == [
            (wide, -(-height // stride), -(-width // stride)) for wide, stride in zip(channels, strides)
        ]


@torch.no_grad()
def test_taps_are_those_of_torchvision_s_segmentation_model():
    reference = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).backbone.eval()
    encoder = create_encoder("mobilenet_v3_large", output_stride=16).eval()
    encoder.net.load_state_dict(reference.state_dict())
    image = torch.randn(1, 3, 50, 70)
    expected, features = reference(image), encoder(image)
    assert torch.equal(features[2], expected["low"])
    assert torch.equal(features[4], expected["high"])


def test_depth_leaves_the_rest_out():
    encoder = create_encoder("mobilenet_v3_large", depth=3)
    assert encoder.strides == [2, 4, 8]
    assert [name for name, _ in encoder.net.named_children()] == ["0", "1", "2", "3", "4"]


def test_a_classifier_s_file_is_loaded_and_its_stem_adapted(tmp_path):
    torch.manual_seed(0)
    state = mobilenet_v3_small(weights=None).state_dict()
    save_file(state, tmp_path / "m.safetensors")
    encoder = create_encoder("mobilenet_v3_small", in_channels=1, weights=tmp_path / "m.safetensors")
    assert torch.allclose(encoder.net.get_submodule("0")[0].weight, state["features.0.0.weight"].sum(1, keepdim=True))
    assert torch.equal(encoder.net.get_submodule("3").block[0][0].weight, state["features.3.block.0.0.weight"])
    with pytest.raises(InputError, match="the file belongs to another network"):
        create_encoder("mobilenet_v3_large", weights=tmp_path / "m.safetensors")


def test_other_output_strides_are_refused():
    with pytest.raises(InputError, match="output_stride 8 of encoder 'mobilenet_v3_large': choose 16 or 32"):
        create_encoder("mobilenet_v3_large", output_stride=8)
