"""What every entry of LOSSES promises, whatever its formula."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perpixel.errors import InputError
from perpixel.losses import CLASS_WEIGHTS, LOSSES, create_loss

IGNORE = 255
# Losses of two classes, as one channel or two.
BINARY = ("bce", "lovasz_hinge")
# name, channels of the logits, classes in the target
CASES = [
    *[(name, 4, 4) for name in LOSSES if name not in BINARY],
    *[(name, 2, 2) for name in BINARY],
    *[(name, 1, 2) for name in LOSSES],
    ("bce:pos_weight=3", 1, 2),
    ("focal:gamma=2+msssim+iou", 3, 3),
    ("lovasz:batch=false,classes=all", 3, 3),
    ("lovasz_hinge:batch=true", 1, 2),
    ("generalised_dice:batch=false", 3, 3),
    ("focal_tversky:gamma=2,batch=false,classes=all", 3, 3),
    ("border_ce:around=edges,sigma=2", 3, 3),
    ("ohem:threshold=0.5,min_kept=7", 3, 3),
    ("ohem:threshold=0.2,min_kept=0.3", 1, 2),
    ("bootstrapped:kept=9", 3, 3),
    ("dice+0.01*boundary", 3, 3),
    ("0.5*ce+dice", 4, 4),
    ("focal:gamma=0.5+2*dice:classes=all,batch=false", 4, 4),
    ("dice:squared=true,include_background=false", 3, 3),
]
SPATIAL = [(5, 6), (3, 4, 5)]
# Losses that look at neighbouring pixels: a row taken out of the image brings others together.
NEIGHBOURS = ("msssim", "hybrid", "border", "boundary")
# Losses that some pixels have no part in: easy ones, and those that the order of errors gives no weight.
SELECTIVE = ("ohem:", "bootstrapped", "lovasz_hinge")
# Losses in which class 0 is not like the others.
WITH_BACKGROUND = ("background", "border_ce")


def has(spec: str, parts: tuple[str, ...]) -> bool:
    return any(part in spec for part in parts)


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
    has_part = (gradient != 0).any(dim=1)
    assert has_part.any() if has(spec, SELECTIVE) or (spec, channels) == ("lovasz", 1) else has_part.all()


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
def test_going_down_it_finds_the_target(spec, channels, classes) -> None:
    logits, target = example(channels, classes, (8, 8))
    logits.requires_grad_()
    loss, optimizer = create_loss(spec), torch.optim.Adam([logits], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    pred = (logits[:, 0] > 0).long() if channels == 1 else logits.argmax(1)
    assert (pred == target).all()


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
    if has(spec, NEIGHBOURS):
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


@pytest.mark.parametrize(("spec", "channels", "classes"), [case for case in CASES if not has(case[0], WITH_BACKGROUND)])
def test_renaming_the_classes_changes_nothing(spec, channels, classes) -> None:
    logits, target = example(channels, classes)
    loss = create_loss(spec)
    if channels == 1:
        if spec not in ("ce", "bce", "bootstrapped") and "ohem" not in spec:
            pytest.skip("one channel: overlaps look at class 1 only, and weights set it apart")
        assert loss(-logits, 1 - target).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)
        return
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
    renamed = torch.empty_like(order)
    renamed[order] = torch.arange(channels)
    assert loss(logits[:, order], renamed[target]).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("spec", "channels", "classes"), [case for case in CASES if not has(case[0], (*NEIGHBOURS, "min_kept=7"))]
)
def test_neither_the_order_nor_the_number_of_pixels_matters(spec, channels, classes) -> None:
    """Pixels mixed, and all of them twice: the same value, but for the smoothing of an overlap."""
    logits, target = example(channels, classes)
    loss = create_loss(spec)
    value = loss(logits, target).item()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    mixed = logits.flatten(2)[..., order].view_as(logits), target.flatten(1)[:, order].view_as(target)
    assert loss(*mixed).item() == pytest.approx(value, rel=1e-5)
    twice = loss(torch.cat([logits, logits]), torch.cat([target, target]))
    assert twice.item() == pytest.approx(value, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("spec", "channels", "classes"), CASES)
def test_a_gpu_gives_the_same(spec, channels, classes) -> None:
    logits, target = example(channels, classes, (40, 50))
    target[0, 0] = IGNORE
    loss = create_loss(spec, ignore_index=IGNORE)
    value, gradient = value_and_gradient(loss, logits, target)
    value_there, gradient_there = value_and_gradient(loss.cuda(), logits.cuda(), target.cuda())
    assert value_there == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(gradient_there.cpu(), gradient, rtol=1e-3, atol=1e-6)


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


def test_every_loss_has_its_row_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", page, re.MULTILINE) == list(LOSSES)
    assert re.findall(r"^\| `(\w+)` \|[^|]*\|$", page, re.MULTILINE) == list(CLASS_WEIGHTS)


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
