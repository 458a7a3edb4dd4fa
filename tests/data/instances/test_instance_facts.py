"""What decides between ways to find objects."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perpixel.data.instances import InstanceFacts, measure_objects
from perpixel.data.instances.facts import sum_facts
from perpixel.labels import Instances, Runs


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (50, 80), **more: object) -> Instances:
    masks = np.zeros((len(corners), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners):
        mask[y0:y1, x0:x1] = True
    return Instances.of(Runs.from_masks(masks, size), **more)  # type: ignore[arg-type]


def test_by_hand() -> None:
    # Two that touch, one at the frame, one that overlaps it, and a crowd over all.
    one = measure_objects(
        boxes(
            (5, 5, 15, 15),
            (15, 5, 25, 15),
            (60, 20, 80, 40),
            (70, 30, 75, 45),
            (0, 0, 80, 50),
            is_crowd=[False] * 4 + [True],
        )
    )
    assert one.areas.tolist() == [100, 100, 400, 75]
    assert one.in_contact.all() and one.overlapped.tolist() == [False, False, True, True]
    assert one.at_frame.tolist() == [False, False, True, False]
    two = measure_objects(boxes((5, 5, 45, 45)))
    facts = sum_facts([one, two, measure_objects(Instances.none((50, 80)))])
    assert (facts.images, facts.empty_images, facts.objects, facts.most_objects) == (3, 1, 5, 4)
    assert facts.objects_per_image == 1 and facts.median_area == 100 and facts.median_side == 10
    assert facts.contact_share == 0.8 and facts.overlap_share == 0.4 and facts.frame_share == 0.2
    assert facts.small_share == 0.8 and facts.relative_side == pytest.approx(10 / np.sqrt(4000))
    low, high = np.percentile(np.sqrt([100, 100, 400, 75, 1600]), (10, 90))
    assert facts.size_spread == pytest.approx(high / low)
    # Boxes of 10x10, 10x10, 20x20, 15 high and 5 wide, 40x40.
    sides, ratios = np.sqrt([100, 100, 400, 75, 1600]), [1, 1, 1, 3, 1]
    assert [facts.small_box, facts.large_box] == pytest.approx(np.percentile(sides, (5, 95)))
    assert [facts.flat_box, facts.tall_box] == pytest.approx(np.percentile(ratios, (10, 90)))
    assert InstanceFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_no_objects_at_all() -> None:
    facts = sum_facts([measure_objects(Instances.none((4, 4)))])
    assert facts.objects == 0 and facts.contact_share == 0 and facts.size_spread == 1
    assert not any(np.isnan(value) for value in facts.to_json().values())
    assert sum_facts([]).images == 0
