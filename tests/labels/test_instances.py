"""The objects of an image: label maps and back, overlaps, contact, outlines, COCO's entries."""

from __future__ import annotations

import numpy as np
import pytest

from perpixel.errors import InputError
from perpixel.labels import (
    Instances,
    Runs,
    coco_entries,
    instances,
    is_in_contact,
    join_instances,
    outline_map,
    overlap_table,
    overlaps,
    union_of,
)


def squares(*corners: tuple[int, int], side: int = 3, size: tuple[int, int] = (10, 12)) -> Runs:
    masks = np.zeros((len(corners), *size), bool)
    for mask, (row, col) in zip(masks, corners):
        mask[row : row + side, col : col + side] = True
    return Runs.from_masks(masks, size)


def test_label_maps_come_back() -> None:
    rng = np.random.default_rng(0)
    label_map = rng.choice([0, 3, 7, 70000, 5], (17, 23)).astype(np.int32)
    objects = Instances.from_label_map(
        label_map, {3: 1, 5: 2, 7: 1, 70000: 2}, scores={3: 0.1, 5: 0.2, 7: 0.3, 70000: 1}
    )
    assert objects.classes.tolist() == [1, 2, 1, 2] and objects.scores is not None
    assert objects.scores.tolist() == [0.1, 0.2, 0.3, 1]
    assert objects.areas.tolist() == [(label_map == number).sum() for number in (3, 5, 7, 70000)]
    painted = objects.to_label_map()
    assert painted.dtype == np.uint16
    assert (np.array([0, 3, 5, 7, 70000])[painted] == label_map).all()


def test_more_objects_than_sixteen_bits_hold() -> None:
    label_map = np.zeros((300, 460), np.int32)
    label_map[::2, :450] = np.arange(1, 67501).reshape(150, 450)
    objects = Instances.from_label_map(label_map)
    assert len(objects) == 67500
    painted = objects.to_label_map()
    assert painted.dtype == np.int32 and (painted == label_map).all()


def test_small_ones_and_high_scores_lie_on_top() -> None:
    masks = Runs.join((10, 12), [*(squares((2, 2), side=side).of(0) for side in (2, 6, 4))])
    assert np.unique(Instances.of(masks).to_label_map(), return_counts=True)[1].tolist() == [84, 4, 20, 12]
    scored = Instances.of(masks, scores=[0.5, 0.4, 0.9])
    assert np.unique(scored.to_label_map()).tolist() == [0, 2, 3]
    flat = scored.without_overlaps()
    assert flat.areas.tolist() == [20, 16] and flat.scores is not None and flat.scores.tolist() == [0.4, 0.9]
    crowded = Instances.of(masks, is_crowd=[False, True, False])
    assert np.unique(crowded.to_label_map()).tolist() == [0, 1, 3] and len(crowded.without_crowds()) == 2


def test_what_is_missing_is_measured() -> None:
    objects = Instances.of(squares((1, 2), (5, 6)), [1, 2], boxes=[[0, 0, 5, 5], [6, 5, 9, 8]], areas=[20, 8.5])
    assert objects.boxes[0].tolist() == [0, 0, 5, 5] and objects.areas.tolist() == [20, 8.5]
    assert Instances.of(squares((1, 2))).boxes.tolist() == [[2, 1, 5, 4]]
    assert len(Instances.none((4, 5))) == 0 and Instances.none((4, 5)).to_label_map().shape == (4, 5)
    both = join_instances([objects, Instances.of(squares((0, 0)), 3)])
    assert both.classes.tolist() == [1, 2, 3] and both.scores is None
    with pytest.raises(InputError, match=r"boxes has shape \(1, 4\), but there are 2 masks: give \(2, 4\)"):
        Instances.of(squares((1, 2), (5, 6)), boxes=[[0, 0, 1, 1]])
    with pytest.raises(InputError, match="2 different sizes"):
        join_instances([objects, Instances.none((4, 5))])
    for bad, message in ((np.zeros((2, 2)), "float64"), (np.full((2, 2), -1), "holds -1: number the objects from 1")):
        with pytest.raises(InputError, match=message):
            Instances.from_label_map(bad)


@pytest.mark.parametrize("compiled", [True, False])
def test_contact(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(instances, "compile_loop", lambda loop: None)
    instances._compiled_meet.cache_clear()
    try:
        # Side by side, corner to corner, a gap of one, alone.
        cases = [((0, 0), (0, 3)), ((0, 0), (3, 3)), ((0, 0), (0, 4)), ((0, 0), (0, 5)), ((0, 5), (4, 1))]
        found = [
            [bool(is_in_contact(Instances.of(squares(*case)), gap=gap).all()) for gap in (0, 1, 2)] for case in cases
        ]
        assert found == [[True] * 3, [True] * 3, [False, True, True], [False, False, True], [False, True, True]]
        hidden = Instances.of(Runs.join((10, 12), [squares((2, 2), side=s).of(0) for s in (3, 3)]))
        assert is_in_contact(hidden).tolist() == [True, True]
        crowd = Instances.of(squares((0, 0), (0, 3)), is_crowd=[True, False])
        assert is_in_contact(crowd).tolist() == [False, False]
        assert is_in_contact(Instances.none((3, 3))).shape == (0,)
        three = Instances.of(squares((0, 0), (7, 9), (0, 3)))
        assert is_in_contact(three).tolist() == [True, False, True]
    finally:
        instances._compiled_meet.cache_clear()


def test_outlines() -> None:
    outline = outline_map(Instances.of(squares((1, 2), (4, 2))))
    assert (outline > 0).sum() == 16 and outline[2, 3] == 0 and outline[1, 2] == 1 and outline[5, 3] == 0
    whole = Instances.of(Runs.from_masks(np.ones((1, 4, 4), bool)))
    assert not outline_map(whole).any()  # the frame is no outline


@pytest.mark.parametrize("compiled", [True, False])
def test_overlaps_are_those_of_the_masks(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("perpixel.labels.overlap", fromlist=["_compiled_shared"])
    if not compiled:
        monkeypatch.setattr(module, "compile_loop", lambda loop: None)
    module._compiled_shared.cache_clear()
    try:
        rng = np.random.default_rng(1)
        one, two = (rng.random((12, 9, 11)) < rng.uniform(0, 0.6, (12, 1, 1)) for _ in range(2))
        rows, cols, shared = overlaps(Runs.from_masks(one), Runs.from_masks(two))
        wanted = np.einsum("nhw,mhw->nm", one.astype(int), two.astype(int))
        table = np.zeros((12, 12), int)
        table[rows, cols] = shared
        assert (table == wanted).all() and (shared > 0).all()
        groups = (np.arange(12) % 3, np.arange(12) % 2)
        rows, cols, _ = overlaps(Runs.from_masks(one), Runs.from_masks(two), groups)
        assert (groups[0][rows] == groups[1][cols]).all() and len(rows) == (
            (wanted > 0) & np.equal.outer(*groups)
        ).sum()
        assert union_of(Runs.from_masks(one)).areas[0] == one.any(axis=0).sum()
    finally:
        module._compiled_shared.cache_clear()


@pytest.mark.parametrize("shape", [(7, 9), (3, 5, 6)])
def test_overlap_table(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    pred, target = rng.choice([0, 2, 9, 2**40], shape), rng.choice([0, 1, 4], shape).astype(np.uint8)
    table = overlap_table(pred, target)
    assert table.pred_ids.tolist() == [2, 9, 2**40] and table.target_ids.tolist() == [1, 4]
    for row, col, shared in zip(table.rows, table.cols, table.shared):
        assert shared == ((pred == table.pred_ids[row]) & (target == table.target_ids[col])).sum()
    assert len(table.rows) == 6
    assert table.pred_areas.tolist() == [(pred == number).sum() for number in (2, 9, 2**40)]
    assert table.target_areas.tolist() == [(target == number).sum() for number in (1, 4)]
    nothing = overlap_table(np.zeros(shape, int), target)
    assert len(nothing.rows) == len(nothing.pred_ids) == 0 and nothing.target_areas.sum() == (target > 0).sum()
    with pytest.raises(InputError, match="differ in shape"):
        overlap_table(pred, target[1:])
    with pytest.raises(InputError, match="pred is float64: give an instance map"):
        overlap_table(pred / 2, target)


def test_coco_entries() -> None:
    void = Instances.of(squares((1, 2), (5, 6), (0, 0)), [1, 2, 0], is_crowd=[False, True, True])
    entries = coco_entries(void, image_id=9, category_ids=[None, 7, 90], first_id=5)
    assert [(e["id"], e["category_id"], e["iscrowd"], e["bbox"]) for e in entries] == [
        (5, 7, 0, [2.0, 1.0, 3.0, 3.0]),
        (6, 90, 1, [6.0, 5.0, 3.0, 3.0]),
    ]
    assert Runs.from_texts([e["segmentation"]["counts"] for e in entries], (10, 12)).areas.tolist() == [9, 9]
    scored = coco_entries(Instances.of(squares((1, 2)), 1, scores=[0.25]), image_id=1, category_ids=[None, 7])
    assert scored[0]["score"] == 0.25 and "id" not in scored[0]
    with pytest.raises(InputError, match="object 0 has class 3, which has no category id"):
        coco_entries(Instances.of(squares((1, 2)), 3), image_id=1, category_ids=[None, 7])
