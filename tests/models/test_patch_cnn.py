"""Patch CNN: the paper's maps and counts, and every pixel against the window centred there, in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models.describe import describe
from perpixel.models.patch_cnn import CARD, PatchCNN, patch_cnn

SMALL = {"width": 6, "hidden": 10}


def on_meta(*arguments, **options) -> PatchCNN:
    with torch.device("meta"):
        return patch_cnn(*arguments, **options)


class ScaledTanh(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 * maps / 3)


def classifier(model: PatchCNN, activation: type[nn.Module] = ScaledTanh) -> nn.Sequential:
    """The paper's network of one window from torch's own layers, with the weights of `model`."""
    *convs, fc, score = model.layers.values()
    parts = [part for each in convs for part in (each.conv, activation(), nn.MaxPool2d(each.pool))]
    hidden, last = (
        nn.Linear(fc.conv.weight[0].numel(), fc.conv.out_channels),
        nn.Linear(*score.conv.weight.shape[1::-1]),
    )
    for linear, conv in ((hidden, fc.conv), (last, score.conv)):
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    return nn.Sequential(*parts, nn.Flatten(), hidden, activation(), last)


def window_at(image: Tensor, row: int, col: int, window: int) -> Tensor:
    """The window centred at a pixel of the image mirrored at its borders, without repeating the outermost pixels."""
    half = window // 2
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (half, half), (half, half)), mode="reflect")
    return torch.from_numpy(padded[:, :, row : row + window, col : col + window])


def lively(**options) -> PatchCNN:
    """Weights and biases of a size that makes pixels differ."""
    torch.manual_seed(0)
    model = patch_cnn(2, 3, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "score" in name:
                nn.init.normal_(parameter, std=0.3)
    return model


def test_the_counts_of_the_card():
    for counted in CARD.counts:
        model = on_meta(counted.in_channels, counted.num_classes, **counted.options)
        assert sum(parameter.numel() for parameter in model.parameters()) == counted.expected
    assert CARD.counts[0].expected == 816 + 57_648 + 2 * 36_912 + 86_600 + 402


@pytest.mark.parametrize(
    ("window", "convs", "pooled"),
    [(95, [92, 42, 18, 6], [46, 21, 9, 3]), (65, [63, 18, 6], [21, 9, 3])],
)
def test_maps_of_one_window(window, convs, pooled):
    model = on_meta(1, 2, window=window, form="sliding")
    maps = torch.empty(1, 1, window, window, device="meta")
    for layer, conv, pool in zip(model.layers.values(), convs, pooled):
        assert layer.conv(maps).shape[-1] == conv
        maps = layer(maps, None)
        assert maps.shape[-1] == pool


@torch.no_grad()
@pytest.mark.parametrize("form", ["dense", "sliding"])
@pytest.mark.parametrize(
    "options",
    [
        {"window": 13, "kernels": [2, 3]},
        {"window": 17, "kernels": [3, 4], "pools": [3, 1]},
        {"window": 35, "kernels": [4, 3, 2]},
        {"window": 9, "kernels": [4], "pools": [3], "activation": "relu"},
    ],
)
def test_every_pixel_is_the_answer_for_the_window_centred_there(form, options):
    model = lively(form=form, **options, **SMALL)
    reference = classifier(model, nn.ReLU if options.get("activation") == "relu" else ScaledTanh)
    image = torch.randn(2, 2, 11, 14)
    logits = model(image)
    assert logits.shape == (2, 3, 11, 14)
    assert logits.std(dim=(2, 3)).min() > 1e-3
    for row in range(11):
        for col in range(14):
            expected = reference(window_at(image, row, col, model.window))
            assert torch.allclose(logits[:, :, row, col], expected, atol=1e-5), (row, col)


@torch.no_grad()
@pytest.mark.parametrize(("window", "size"), [(95, (5, 7)), (65, (8, 3)), (95, (1, 1))])
def test_the_papers_windows_in_both_forms(window, size):
    dense, sliding = lively(window=window), lively(window=window, form="sliding")
    sliding.load_state_dict(dense.state_dict())
    image = torch.randn(1, 2, *size)
    assert torch.allclose(dense(image), sliding(image), atol=1e-5)


@torch.no_grad()
def test_the_middle_of_n4_is_the_window_itself():
    model = lively()
    image = torch.randn(1, 2, 95, 95)
    assert torch.allclose(model(image)[:, :, 47, 47], classifier(model)(image), atol=1e-5)


@torch.no_grad()
def test_chunks_change_nothing():
    model = lively(window=13, kernels=[2, 3], form="sliding", **SMALL)
    image = torch.randn(2, 2, 9, 11)
    expected = model(image)
    for chunk in (1, 7, 198, 199):
        model.chunk = chunk
        assert torch.allclose(model(image), expected, atol=1e-6)


def test_memory_of_a_chunk_is_bounded():
    for width, window in ((48, 95), (4, 65), (512, 95)):
        model = on_meta(1, 2, width=width, window=window, form="sliding")
        first = window - model.layers["conv1"].conv.kernel_size[0] + 1
        assert model.chunk == 1 or 4 * width * first**2 * model.chunk <= 2**27


def test_both_forms_have_the_same_gradients():
    dense = lively(window=13, kernels=[2, 3], **SMALL)
    sliding = lively(window=13, kernels=[2, 3], form="sliding", **SMALL)
    sliding.chunk = 10
    image, factor = torch.randn(1, 2, 6, 9), torch.randn(1, 3, 6, 9)
    for model in (dense, sliding):
        (model(image) * factor).sum().backward()
    for mine, theirs in zip(dense.parameters(), sliding.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_describe_shows_what_the_naive_form_costs():
    dense = describe(on_meta(1, 2), in_channels=1, size=(64, 80))
    sliding = describe(on_meta(1, 2, form="sliding"), in_channels=1, size=(64, 80))
    conv1, conv2 = 92 * 92 * 48 * 16, 42 * 42 * 48 * 48 * 25
    conv3, conv4 = 18 * 18 * 48 * 48 * 16, 6 * 6 * 48 * 48 * 16
    assert sliding.multiply_adds == 64 * 80 * (conv1 + conv2 + conv3 + conv4 + 432 * 200 + 200 * 2)
    assert dense.multiply_adds < sliding.multiply_adds / 200
    assert dense.parameters == sliding.parameters
    for description in (dense, sliding):
        last = description.rows[-1]
        assert (last.height, last.width, last.stride, last.receptive_field) == (64, 80, 1, 95)


def test_start_of_the_weights():
    torch.manual_seed(0)
    tanh, relu = patch_cnn(1, 2), patch_cnn(1, 2, activation="relu")
    # LeCun: 1 / sqrt(inputs); He: sqrt(2 / outputs).
    assert tanh.layers["conv2"].conv.weight.std().item() == pytest.approx((48 * 25) ** -0.5, rel=0.03)
    assert relu.layers["conv2"].conv.weight.std().item() == pytest.approx((2 / (48 * 25)) ** 0.5, rel=0.03)
    assert relu.layers["fc"].conv.weight.std().item() == pytest.approx((2 / (200 * 9)) ** 0.5, rel=0.03)
    for model in (tanh, relu):
        assert model.layers["score"].conv.weight.std().item() == pytest.approx(0.01, rel=0.15)
        assert not model.layers["conv1"].conv.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 94}, r"window=94 of patch_cnn: give an odd side"),
        ({"window": 0}, r"window=0 of patch_cnn: give an odd side"),
        ({"window": 81}, r"window=81 of patch_cnn: its layers are known for 95 and 65: give kernels"),
        ({"window": 81, "kernels": [4, 5, 4, 4]}, r"window=81 .* kernels=\[4, 5, 4, 4\] and pools=\[2, 2, 2, 2\]: use window=79 or 95"),  # noqa: E501
        ({"window": 5, "kernels": [4, 5, 4, 4]}, r"window=5 .*: use window=63$"),
        ({"window": 95, "kernels": [3, 5, 4, 4]}, r"window=95 .*no odd window does: choose other kernels"),
        ({"window": 9, "kernels": []}, r"kernels=\[\] of patch_cnn: give a list of whole numbers"),
        ({"window": 9, "kernels": "44"}, r"kernels='44' of patch_cnn: give a list"),
        ({"window": 9, "kernels": [4, 0]}, r"kernels=\[4, 0\] of patch_cnn: give a list"),
        ({"pools": [2, 2.0, 2, 2]}, r"pools=\[2, 2\.0, 2, 2\] of patch_cnn: give a list"),
        ({"pools": [2, 2]}, r"pools=\[2, 2\] of patch_cnn: give one for each of kernels=\[4, 5, 4, 4\]"),
        ({"form": "fragments"}, r"form='fragments' of patch_cnn: choose dense or sliding"),
        ({"activation": "gelu"}, r"activation='gelu' of patch_cnn: choose tanh or relu"),
        ({"width": 0}, r"width=0 of patch_cnn"),
        ({"hidden": 0}, r"hidden=0 of patch_cnn"),
        ({"hidden": "many"}, r"hidden='many' of patch_cnn"),
    ],
)  # fmt: skip
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        patch_cnn(1, 2, **options)
