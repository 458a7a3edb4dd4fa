"""RoIAlign over a pyramid: levels and cells by hand, and the compiled loop against torchvision's operation."""

from __future__ import annotations

import pytest
import torch

from perpixel.models import roi_align as module
from perpixel.models.roi_align import PyramidRoIAlign, prepare_levels, runs_compiled

STRIDES = (4, 8, 16)


@pytest.fixture(params=[True, False], ids=["compiled", "torchvision"])
def way(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(module, "_loops", lambda: None)
    elif not runs_compiled(torch.zeros(1)):
        pytest.skip("nothing is compiled here")


def test_boxes_go_to_the_level_of_their_size():
    align = PyramidRoIAlign((4, 8, 16, 32), 7, aligned=True)
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert align.level_of(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert PyramidRoIAlign((2, 4, 8), 7, aligned=True).level_of(boxes).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    tiny = torch.tensor([[0.0, 0.0, 50.0, 50.0], [3.0, 3.0, 3.0, 3.0]])  # one without an area
    assert PyramidRoIAlign((2, 4, 8), 7, aligned=True).level_of(tiny).tolist() == [0, 0]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("aligned", "shift"), [(True, 0.0), (False, 0.5)])
def test_cells_hold_the_values_under_them(aligned, shift):
    # Level 0 holds the column of each of its pixels' middle, in pixels of the image; level 1 holds 1000.
    fine = (torch.arange(16.0) * 4 + 2).expand(2, 1, 16, 16).clone()
    fine[1] += 100
    levels = prepare_levels([fine, torch.full((2, 1, 32, 32), 1000.0)])
    boxes = [torch.tensor([[0.0, 0.0, 200.0, 200.0], [8.0, 8.0, 36.0, 36.0]]), torch.tensor([[8.0, 8.0, 36.0, 36.0]])]
    cells = PyramidRoIAlign((4, 8), 7, aligned=aligned)(levels, boxes)
    assert cells.shape == (3, 1, 7, 7) and torch.allclose(
        cells[0], torch.tensor(1000.0)
    )  # order of boxes, not of levels
    expected = 8 + 4 * torch.arange(7.0) + 2 + 4 * shift
    assert torch.allclose(cells[1, 0], expected.expand(7, 7)) and torch.allclose(cells[2, 0], expected + 100)


def scene(count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Three levels of an image of 96x128 and boxes of all sizes; some reach beyond it, one has no area."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 5, 96 // stride, 128 // stride, generator=generator) for stride in STRIDES]
    middles = torch.rand(count, 2, generator=generator) * torch.tensor([140.0, 110.0]) - 6
    sides = torch.exp(torch.rand(count, 2, generator=generator) * 6)
    sides[:1] = 0
    boxes = torch.cat([middles - sides / 2, middles + sides / 2], dim=1)
    return levels, [boxes[: count // 3], boxes[count // 3 :]]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("side", "count", "threads"), [(7, 150, 2), (14, 40, 1), (3, 0, 1)])
def test_the_compiled_loop_is_torchvision_s(aligned, side, count, threads, monkeypatch):
    if not runs_compiled(torch.zeros(1)):
        pytest.skip("nothing is compiled here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    align = PyramidRoIAlign(STRIDES, side, aligned=aligned)
    levels, boxes = scene(count)
    answers = []
    for is_compiled in (True, False):
        if not is_compiled:
            monkeypatch.setattr(module, "_loops", lambda: None)
        each = [maps.clone().requires_grad_() for maps in levels]
        cells = align(prepare_levels(each), boxes)
        assert cells.shape == (count, 5, side, side)
        (cells * torch.linspace(-1, 1, side)).square().sum().backward()
        answers.append((cells.detach(), [maps.grad for maps in each]))
    (mine, gradients), (theirs, expected) = answers
    assert torch.allclose(mine, theirs, atol=2e-5)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert count == 0 or all(one.any() for one in gradients)


def test_the_same_gradient_in_every_run():
    align = PyramidRoIAlign(STRIDES, 7, aligned=True)
    levels, boxes = scene(200)
    found = []
    for _ in range(2):
        each = [maps.clone().requires_grad_() for maps in levels]
        align(prepare_levels(each), boxes).square().sum().backward()
        found.append([maps.grad for maps in each])
    assert all(torch.equal(one, other) for one, other in zip(*found))


@pytest.mark.usefixtures("way")
def test_levels_in_bf16_are_read_in_fp32():
    levels, boxes = scene(20)
    halves = [maps.bfloat16().requires_grad_() for maps in levels]
    cells = PyramidRoIAlign(STRIDES, 7, aligned=True)(prepare_levels(halves), boxes)
    assert cells.dtype == torch.float32
    cells.sum().backward()
    assert all(maps.grad.dtype == torch.bfloat16 for maps in halves)
