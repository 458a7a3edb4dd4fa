"""What every entry of LOSSES promises, whatever its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perpixel.errors import InputError
from perpixel.losses import LOSSES, create_loss

IGNORE = 255
# name, channels of the logits, classes in the target
CASES = [
    *[(name, 4, 4) for name in LOSSES if name != "bce"],
    *[(name, 1, 2) for name in LOSSES],
    ("0.5*ce+dice", 4, 4),
    ("focal:gamma=0.5+2*dice:classes=all,batch=false", 4, 4),
    ("dice:squared=true,include_background=false", 3, 3),
]
SPATIAL = [(5, 6), (3, 4, 5)]
# Losses that look at neighbouring pixels: a row taken out of the image brings others together.
NEIGHBOURS = ("msssim", "hybrid")


def example(channels: int, classes: int, spatial=(5, 6), dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((2, channels, *spatial), generator=generator, dtype=dtype)
    target = torch.randint(0, classes, (2, *spatial), generator=generator)
    return logits, target


def value_and_gradient(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad


@pytest.mark.parametrize("spatial", SPATIAL, ids=["2d", "3d"])
@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_it_is_a_finite_scalar_with_a_gradient_everywhere(spec, channels, classes, spatial) -> None:
    logits, target = example(channels, classes, spatial)
    value, gradient = value_and_gradient(create_loss(spec, ignore_index=IGNORE), logits, target)
    assert value > 0
    assert gradient.isfinite().all()
    assert (gradient != 0).any(dim=1).all()


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_its_gradient_is_its_slope(spec, channels, classes) -> None:
    logits, target = example(channels, classes, (2, 3), torch.float64)
    target[0, 0, 0] = IGNORE
    loss = create_loss(spec, ignore_index=IGNORE)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits.requires_grad_(),))


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_a_better_prediction_costs_less(spec, channels, classes) -> None:
    _, target = example(channels, classes)
    right = (target[:, None] * 2.0 - 1) if channels == 1 else torch.eye(channels)[target].movedim(-1, 1)
    loss = create_loss(spec)
    values = [loss(scale * right, target).item() for scale in (-4.0, -1.0, 0.0, 1.0, 4.0, 30.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_an_ignored_pixel_changes_nothing(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    target[:, 2:4] = IGNORE
    loss = create_loss(spec, ignore_index=IGNORE)
    value, gradient = value_and_gradient(loss, logits, target)
    assert (gradient[:, :, 2:4] == 0).all()
    shouted = logits.clone()
    shouted[:, :, 2:4] = 50 * torch.randn_like(shouted[:, :, 2:4])
    assert loss(shouted, target).item() == pytest.approx(value, rel=1e-6)
    if spec in NEIGHBOURS:
        return
    kept = [0, 1, 4]
    assert loss(logits[:, :, kept], target[:, kept]).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_a_batch_that_is_all_ignored_costs_nothing_and_keeps_the_graph(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    loss = create_loss(spec, ignore_index=IGNORE)
    value, gradient = value_and_gradient(loss, logits, torch.full_like(target, IGNORE))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(("spec", "channels", "classes"), [case for case in CASES if "background" not in case[0]])
def test_renaming_the_classes_changes_nothing(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    loss = create_loss(spec)
    if channels == 1:
        if spec in ("dice", "iou", "focal", *NEIGHBOURS):
            pytest.skip("one channel: overlaps and similarity look at class 1 only, and alpha sets it apart")
        assert loss(-logits, 1 - target).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)
        return
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
    renamed = torch.empty_like(order)
    renamed[order] = torch.arange(channels)
    assert loss(logits[:, order], renamed[target]).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_a_class_that_is_absent_leaves_it_finite(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    value, gradient = value_and_gradient(create_loss(spec), logits, torch.zeros_like(target))
    assert 0 <= value < 50
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_extreme_logits_leave_it_finite(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    value, gradient = value_and_gradient(create_loss(spec), 1e4 * logits, target)
    assert value >= 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_memory_layout_and_half_precision_do_not_matter(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    target[0, 0] = IGNORE
    loss = create_loss(spec, ignore_index=IGNORE)
    value, gradient = value_and_gradient(loss, logits, target)
    last = logits.contiguous(memory_format=torch.channels_last)
    value_last, gradient_last = value_and_gradient(loss, last, target)
    assert value_last == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient_last, gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(logits.bfloat16().float(), target).item(), rel=1e-6)


@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_wrong_input_is_named(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    loss = create_loss(spec, ignore_index=IGNORE)
    with pytest.raises(InputError, match=r"target \(2, 5, 5\) does not fit logits .* of shape \(2, 5, 6\)"):
        loss(logits, target[:, :, :-1])
    with pytest.raises(InputError, match=r"target is torch.float32: give class ids as whole numbers"):
        loss(logits, target.float())
    target[1, 2, 3] = 77
    expected = rf"target holds 77, outside 0\.\.{classes - 1} \({classes} classes, ignore_index=255\)"
    with pytest.raises(InputError, match=expected):
        loss(logits, target)
