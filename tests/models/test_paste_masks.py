"""Small masks into the image: by hand, as torchvision does it, and with and without the compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perpixel.models import paste_masks as module
from perpixel.models.paste_masks import paste_masks


def scene(count: int = 40, side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random masks, and boxes of all sizes, some beyond an image of 60x90, some without area."""
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.normal(0, 2, (count, 1, 5, 5)))
    masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").sigmoid()[:, 0].numpy()
    corners = rng.uniform((-20, -20), (100, 70), (count, 2))
    sides = np.exp(rng.uniform(np.log(0.5), np.log(120), (count, 2)))
    sides[0] = 0
    return masks.astype(np.float32), np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def test_a_full_mask_fills_its_box():
    runs = paste_masks(np.ones((2, 28, 28)), [[3, 2, 7, 5], [-4, -4, 2, 1]], (6, 9), aligned=True)
    assert runs.boxes.tolist() == [[3, 2, 7, 5], [0, 0, 2, 1]] and runs.areas.tolist() == [12, 2]


def test_a_half_mask_by_hand():
    # Columns 0 and 1 of four on: in a box of 8 pixels from x = 2 the value falls through 0.5 at x = 6.
    mask = np.zeros((1, 4, 4))
    mask[0, :, :2] = 1
    runs = paste_masks(mask, [[2, 1, 10, 9]], (12, 12), aligned=True)
    assert runs.boxes.tolist() == [[2, 1, 6, 9]] and runs.areas.tolist() == [32]
    # Half a pixel further it is 0.5 at 2.5 and 6.5, the middles of pixels 2 and 6.
    assert paste_masks(mask, [[2.5, 1, 10.5, 9]], (12, 12), aligned=True).boxes[0].tolist() == [2, 1, 7, 9]
    assert paste_masks(mask, [[2.6, 1, 10.6, 9]], (12, 12), aligned=True).boxes[0].tolist() == [3, 1, 7, 9]


def test_columns_that_go_on_are_one_run():
    runs = paste_masks(np.ones((1, 28, 28)), [[1, 0, 4, 5]], (5, 6), aligned=True)
    assert runs.spans.tolist() == [[5, 20]]  # touches top and bottom: one span over three columns


@pytest.mark.parametrize("side", [28, 14])
def test_torchvision_s_pixels(side):
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = scene(side=side)
    boxes = boxes.clip(0, [90, 60, 90, 60])  # as those of detections are
    theirs = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (60, 90))[:, 0].numpy()
    runs = paste_masks(masks, boxes, (60, 90))
    for index, soft in enumerate(theirs):
        differs = runs.mask(index) != (soft >= 0.5)
        assert (np.abs(soft[differs] - 0.5) < 1e-5).all()
    assert 100 < runs.areas.sum() == (theirs >= 0.5).sum()


@pytest.mark.parametrize("aligned", [True, False])
def test_the_same_runs_without_the_compiler(aligned, monkeypatch):
    masks, boxes = scene(200)
    fast = paste_masks(masks, boxes, (60, 90), aligned=aligned)
    monkeypatch.setattr(module, "_compiled_paste", lambda: None)
    slow = paste_masks(masks, boxes, (60, 90), aligned=aligned)
    assert np.array_equal(fast.spans, slow.spans) and np.array_equal(fast.starts, slow.starts)
    # What is kept between calls has no gaps of length 0 and no neighbours that touch.
    for index in range(len(fast)):
        spans = fast.of(index)
        assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] > spans[:-1, 1]).all()


def test_the_buffer_holds_the_worst_mask():
    # Every second row of the small mask is on: as many runs in a column as there can be.
    mask = np.zeros((1, 28, 28), np.float32)
    mask[0, ::2] = 1
    runs = paste_masks(mask, [[0, 0, 8, 560]], (560, 8), aligned=True)
    assert len(runs.spans) == 14 * 8
    dense = paste_masks(mask, [[0, 0, 8, 28]], (28, 8), aligned=True)
    assert len(dense.spans) == 14 * 8 and dense.areas.tolist() == [112]


def test_shifting_boxes_by_whole_pixels_shifts_the_masks():
    masks, _ = scene(20)
    boxes = np.random.default_rng(0).uniform(5, 15, (20, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    for aligned in (True, False):
        here = paste_masks(masks, boxes, (60, 80), aligned=aligned)
        there = paste_masks(masks, boxes + np.float32([16, 8, 16, 8]), (60, 80), aligned=aligned)
        for index in range(20):
            assert np.array_equal(here.mask(index)[:50, :60], there.mask(index)[8:58, 16:76])


def test_no_objects():
    runs = paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (4, 5))
    assert len(runs) == 0 and runs.size == (4, 5)
