"""Anchors from the sizes of the objects, worked by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from perpixel.data.instances.facts import InstanceFacts, measure_objects, sum_facts
from perpixel.labels import Instances, Runs
from perpixel.models.mask_rcnn import MaskRCNN
from perpixel.planning import plan_anchors


def facts(small: float, large: float, flat: float = 0.5, tall: float = 2.0) -> InstanceFacts:
    none = sum_facts([measure_objects(Instances.none((4, 4)))])
    return dataclasses.replace(none, objects=9, small_box=small, large_box=large, flat_box=flat, tall_box=tall)


@pytest.mark.parametrize(
    ("small", "large", "scale", "finest", "sizes"),
    [
        (32, 512, 1.0, 4, [32, 64, 128, 256, 512]),  # COCO's own
        (60, 400, 1.0, 4, [32, 64, 128, 256, 512]),  # never coarser at the fine end
        (10, 40, 1.0, 4, [10, 20, 40, 80, 160]),
        (20, 80, 0.5, 4, [10, 20, 40, 80, 160]),  # the net sees half the size
        (6, 40, 1.0, 2, [6, 12, 24, 48, 96, 192]),  # below two strides: a finer level
        (2, 40, 1.0, 2, [4, 8, 16, 32, 64, 128]),  # the smallest that stride 2 finds
        (8, 648, 1.0, 4, [8, 24, 72, 216, 648]),  # 81 = 3 ** 4 times larger: steps of 3
    ],
)
def test_sizes_by_hand(small: float, large: float, scale: float, finest: int, sizes: list[int]) -> None:
    plan = plan_anchors(facts(small, large), scale)
    assert (plan.finest, [each for (each,) in plan.anchor_sizes]) == (finest, sizes)
    assert f"boxes are {small * scale:.0f} to {large * scale:.0f} pixels" in plan.reason
    assert f"anchors of {sizes[0]} to {sizes[-1]}" in plan.reason
    assert ("a level at stride 2" in plan.reason) == (finest == 2)
    assert ("3.0 times larger" in plan.reason) == (sizes[-1] == 648)


@pytest.mark.parametrize(
    ("flat", "tall", "ratios"),
    [
        (0.5, 2.0, [0.5, 1.0, 2.0]),
        (0.9, 1.2, [1.04]),  # round cells: one shape
        (1.0, 4.0, [1.0, 2.0, 4.0]),  # standing people
        (0.1, 0.4, [0.25, round(math.sqrt(0.1), 2), 0.4]),  # no flatter than 1 to 4
    ],
)
def test_ratios_by_hand(flat: float, tall: float, ratios: list[float]) -> None:
    plan = plan_anchors(facts(10, 40, flat, tall))
    assert plan.aspect_ratios == ratios
    assert f"height over width {flat:.2f} to {tall:.2f}" in plan.reason


def test_without_objects_they_are_coco_s() -> None:
    none = plan_anchors(sum_facts([measure_objects(Instances.none((4, 4)))]))
    assert none.options() == {
        "finest": 4,
        "anchor_sizes": [[32], [64], [128], [256], [512]],
        "aspect_ratios": [0.5, 1.0, 2.0],
    }
    assert "no objects are known" in none.reason


def test_boxes_of_masks_are_measured_and_the_net_takes_the_plan() -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 10:16, 10:16] = masks[1, 30:42, 30:36] = True
    measured = sum_facts([measure_objects(Instances.of(Runs.from_masks(masks)))])
    assert (measured.flat_box, measured.tall_box) == pytest.approx((1.1, 1.9))
    plan = plan_anchors(measured)
    assert plan.finest == 2 and plan.anchor_sizes[0] == [6]
    with torch.device("meta"):
        model = MaskRCNN(3, 2, encoder="resnet18", **plan.options())
    assert model.rpn.anchor_generator.num_anchors_per_location() == [3] * 6
    assert model.box_align.strides == (2, 4, 8, 16, 32)
