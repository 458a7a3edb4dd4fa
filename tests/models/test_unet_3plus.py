"""UNet 3+: exact counts, which scales enter each stage and in which order, presence of classes and its gate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.models import UNet3Plus, create_model
from perpixel.models.unet_3plus import CARD, without_absent


def on_meta(in_channels: int, num_classes: int, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model("unet_3plus", in_channels=in_channels, num_classes=num_classes, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv(old: int, new: int) -> int:
    """A 3x3 convolution without bias, and the scale and shift behind it."""
    return 9 * old * new + 2 * new


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_counts_of_the_card(expected):
    assert count(on_meta(expected.in_channels, expected.num_classes, **expected.options)) == expected.expected


def test_count_worked_out():
    widths = [64, 128, 256, 512, 1024]
    encoder = sum(conv(old, new) + conv(new, new) for old, new in zip([3, *widths], widths))
    sources = [64, 128, 256, 512, 1024], [64, 128, 256, 320, 1024], [64, 128, 320, 320, 1024], [64, 320, 320, 320, 1024]
    decoder = sum(conv(old, 64) for each in sources for old in each) + 4 * conv(320, 320)
    head = 9 * 320 + 1
    assert encoder + decoder + head == count(on_meta(3, 1)) == 26_965_249
    deep = 3 * head + 9 * 1024 + 1
    assert encoder + decoder + head + deep == count(on_meta(3, 1, deep_supervision=True)) == 26_983_109
    # The release's convolutions have biases in front of batch normalisation; with them it prints 26.97M and 26.99M.
    biases = 2 * sum(widths) + 4 * (5 * 64 + 320)
    assert (26_965_249 + biases, 26_983_109 + biases) == (26_971_777, 26_989_637)
    assert count(on_meta(3, 7, classification_guided=True)) == 26_965_249 + 6 * head + (1024 + 1) * 7


def convs(state: dict[str, Tensor], name: str, maps: Tensor) -> Tensor:
    maps = F.conv2d(maps, state[f"{name}.conv.weight"], padding=1)
    norm = [state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(maps, *norm).relu()


def twin(image: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """UNet 3+ wired by hand from the paper's figure, for sides of a multiple of 16; d1, d2, d3, d4, e5."""

    def stage(number: int, maps: Tensor) -> Tensor:
        name = f"encoder.stages.{number - 1}"
        return convs(state, f"{name}.1", convs(state, f"{name}.0", maps))

    def join(place: int, *sources: Tensor) -> Tensor:
        name = f"decoder.{place}"
        branches = [convs(state, f"{name}.branches.{number}", maps) for number, maps in enumerate(sources)]
        return convs(state, f"{name}.mix", torch.cat(branches, 1))

    def pool(maps: Tensor, factor: int) -> Tensor:
        return F.max_pool2d(maps, factor, factor, ceil_mode=True)

    def up(maps: Tensor, factor: int) -> Tensor:
        return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)

    e1 = stage(1, image)
    e2 = stage(2, pool(e1, 2))
    e3 = stage(3, pool(e2, 2))
    e4 = stage(4, pool(e3, 2))
    e5 = stage(5, pool(e4, 2))
    d4 = join(0, pool(e1, 8), pool(e2, 4), pool(e3, 2), e4, up(e5, 2))
    d3 = join(1, pool(e1, 4), pool(e2, 2), e3, up(d4, 2), up(e5, 4))
    d2 = join(2, pool(e1, 2), e2, up(d3, 2), up(d4, 4), up(e5, 8))
    d1 = join(3, e1, up(d2, 2), up(d3, 4), up(d4, 8), up(e5, 16))
    heads = [
        F.conv2d(maps, state[f"heads.{number}.weight"], state[f"heads.{number}.bias"], padding=1)
        for number, maps in enumerate([d1, d2, d3, d4, e5])
    ]
    return [heads[0], *(up(maps, 2**number) for number, maps in enumerate(heads[1:], start=1))]


def small(num_classes: int = 3, **options) -> UNet3Plus:
    """With batch statistics as training leaves them, fixed also in train mode."""
    torch.manual_seed(0)
    model = UNet3Plus(2, num_classes, width=4, **options)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    return model


def fixed_norm(model: nn.Module) -> nn.Module:
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return model


def test_equals_a_hand_wired_twin():
    model = small(deep_supervision=True)
    image = torch.randn(2, 2, 32, 48)
    with torch.no_grad():
        expected = twin(image, model.state_dict())
        torch.testing.assert_close(model.eval()(image), expected[0], atol=1e-5, rtol=1e-5)
        outputs = fixed_norm(model)(image)
    assert model.aux_weights == (1.0,) * 4
    for logits, each in zip(outputs, expected, strict=True):
        torch.testing.assert_close(logits, each, atol=1e-5, rtol=1e-5)


def test_any_size_comes_back():
    model = small().eval()
    with torch.no_grad():
        for size in ((1, 1), (17, 40), (47, 31)):
            assert model(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


def test_the_presence_output_is_the_largest_answer_of_the_deepest_map():
    model = small(deep_supervision=True, classification_guided=True)
    model.presence[0].p = 0.0
    image = torch.randn(2, 2, 48, 32)
    seen = {}
    model.encoder.stages[4].register_forward_hook(lambda module, args, output: seen.update(deepest=output))
    with torch.no_grad():
        *logits, present = fixed_norm(model)(image)
        by_hand = F.conv2d(seen["deepest"], model.presence[1].weight, model.presence[1].bias)
    assert model.aux_weights == (1.0,) * 5
    assert len(logits) == 5
    torch.testing.assert_close(present, by_hand.flatten(2).max(2).values)
    assert present.shape == (2, 3)


def set_presence(model: UNet3Plus, values: list[float]) -> None:
    with torch.no_grad():
        model.presence[1].weight.zero_()
        model.presence[1].bias.copy_(torch.tensor(values))


@torch.no_grad()
def test_an_absent_class_is_never_the_answer():
    model = small(classification_guided=True).eval()
    image = torch.randn(1, 2, 32, 32)
    set_presence(model, [1.0, 1.0, 1.0])
    plain = model(image)
    assert set(plain.argmax(1).unique().tolist()) == {0, 1, 2}
    set_presence(model, [1.0, -1.0, 1.0])
    gated = model(image)
    assert torch.equal(gated[:, [0, 2]], plain[:, [0, 2]])
    assert set(gated.argmax(1).unique().tolist()) == {0, 2}
    assert gated.softmax(1)[:, 1].max() < 1e-8
    set_presence(model, [-1.0, -1.0, -1.0])
    assert (model(image).argmax(1) == 0).all()
    # Training shows the loss the plain logits, unless it is to be gated as well.
    set_presence(model, [1.0, -1.0, 1.0])
    assert torch.equal(fixed_norm(model)(image)[0], plain)
    model.gate_training = True
    assert torch.equal(model(image)[0], gated)


def test_the_gate_by_hand():
    logits = torch.tensor([[3.0, -5.0, 1.0], [0.0, 7.0, -2.0]]).view(2, 3, 1, 1)
    present = torch.tensor([[-1.0, -0.5, 0.5], [2.0, 0.1, 0.0]])
    expected = torch.tensor([[3.0, -25.0, 1.0], [0.0, 7.0, -22.0]]).view(2, 3, 1, 1)
    assert torch.equal(without_absent(logits, present), expected)
    one = torch.tensor([3.0, -5.0]).view(1, 1, 1, 2)
    assert torch.equal(without_absent(one, torch.tensor([[-1.0]])).flatten(), torch.tensor([-20.0, -25.0]))
    assert torch.equal(without_absent(one, torch.tensor([[1.0]])), one)


def test_no_gradient_passes_the_decision():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    present = torch.tensor([[1.0, -1.0, 1.0]], requires_grad=True)
    without_absent(logits, present).sum().backward()
    assert present.grad is None
    assert torch.equal(logits.grad, torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2))


def test_scales_of_batch_normalisation_start_around_one():
    torch.manual_seed(0)
    scales = torch.cat([part.weight for part in UNet3Plus(width=8).modules() if isinstance(part, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.01)
    assert scales.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of unet_3plus"),
        ({"gate_training": True}, "gate_training of unet_3plus needs .* add classification_guided=true"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        UNet3Plus(3, 2, **options)
