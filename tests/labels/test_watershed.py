"""Maps to objects: floods worked out by hand, a watershed from elsewhere, holes, scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from perpixel.errors import InputError
from perpixel.labels import Grouping, fill_holes, group_objects, persistent_basins, watershed

SEVEN = np.array([[0.2, 0.8, 0.5, 0.6, 0.1, 1.0, 0.4]])


def flood_line(persistence: float, least_area: int = 0) -> list[int]:
    basins, _ = persistent_basins(SEVEN, SEVEN > 0, persistence=persistence, least_area=least_area)
    return basins[0].tolist()


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(watershed, "_compiled_flood", lambda: None)


@pytest.mark.usefixtures("form")
def test_the_depth_of_the_pass_decides() -> None:
    # Tops 0.8 and 0.6 with a pass at 0.5, then 1.0 beyond a pass at 0.1.
    assert flood_line(0.05) == [2, 2, 2, 3, 1, 1, 1]
    assert flood_line(0.15) == [2, 2, 2, 2, 1, 1, 1]
    assert flood_line(0.71) == [1] * 7


@pytest.mark.usefixtures("form")
def test_small_basins_are_joined() -> None:
    assert flood_line(0.05, least_area=2) == [2, 2, 2, 2, 1, 1, 1]
    assert flood_line(0.05, least_area=4) == [1] * 7


@pytest.mark.usefixtures("form")
def test_tops_fall_and_nothing_leaves_the_mask() -> None:
    mask = SEVEN != 0.1
    basins, tops = persistent_basins(SEVEN, mask, persistence=0.05)
    assert tops == pytest.approx([1.0, 0.8, 0.6], abs=1e-3)
    assert np.array_equal(basins > 0, mask)
    nothing, none = persistent_basins(SEVEN, np.zeros_like(mask), persistence=0.1)
    assert not nothing.any() and len(none) == 0


@pytest.mark.usefixtures("form")
def test_a_plateau_is_one_basin() -> None:
    flat = np.full((5, 6), 0.5)
    basins, tops = persistent_basins(flat, np.ones_like(flat, bool), persistence=0.0001)
    assert basins.max() == 1 and tops == pytest.approx([0.5], abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 9)))
def test_full_persistence_gives_the_connected_parts(values: np.ndarray) -> None:
    mask = values > 4
    basins, _ = persistent_basins(values / 10, mask, persistence=1.0)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    assert basins.max(initial=0) == count
    pairs = set(zip(basins[mask].tolist(), parts[mask].tolist()))
    assert len(pairs) == count


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 200)))
def test_basins_are_as_many_as_tops_that_stand_out(values: np.ndarray) -> None:
    """By thresholds: a top counts at persistence p where no higher one is reached without falling by p or more."""
    height, least = np.unique(values, return_inverse=True)[1].reshape(values.shape), 3
    mask = np.ones(values.shape, bool)
    basins, tops = persistent_basins(height / 4096, mask, persistence=least / 4096)
    # The first pixel in reading order stands for tops of one height.
    order = height * values.size - np.arange(values.size).reshape(values.shape)
    expected = 0
    for place in np.ndindex(*values.shape):
        parts, _ = ndimage.label(height > height[place] - least, np.ones((3, 3)))
        expected += bool(order[parts == parts[place]].max() == order[place])
    assert basins.max() == expected == len(tops)
    assert (np.diff(tops) <= 0).all()


def test_compiled_and_plain_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    height = ndimage.gaussian_filter(rng.random((60, 70)), 2)
    height = (height - height.min()) / np.ptp(height)
    found = []
    for kernel in (watershed._compiled_flood, lambda: None):
        monkeypatch.setattr(watershed, "_compiled_flood", kernel)
        found.append(persistent_basins(height, height > 0.3, persistence=0.1, least_area=5))
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])
    assert found[0][0].max() > 5


def test_holes_belong_to_who_encloses_them() -> None:
    drawn = np.array(
        [
            [1, 1, 1, 0, 2, 2, 2],
            [1, 0, 1, 0, 2, 0, 2],
            [1, 1, 1, 3, 2, 0, 2],
            [0, 0, 3, 0, 2, 0, 2],
            [0, 0, 3, 3, 2, 2, 2],
        ],
        np.int32,
    )
    filled = drawn.copy()
    filled[1, 1], filled[1:4, 5] = 1, 2  # the hole at (3, 3) lies between two
    assert np.array_equal(fill_holes(drawn), filled)
    assert np.array_equal(fill_holes(np.ones((2, 2), np.int32)), np.ones((2, 2)))
    assert not fill_holes(np.zeros((3, 3), np.int32)).any()


def two_hills() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two discs of radius 6 that touch, of classes 1 and 2; the second is less sure."""
    rows, cols = np.mgrid[:20, :40]
    hills = [np.clip(1 - np.hypot(rows - 9.5, cols - col) / 6.5, 0, 1) for col in (12, 25)]
    height = np.maximum(*hills).astype(np.float32)
    probs = np.zeros((3, 20, 40), np.float32)
    probs[1] = np.where((height > 0) & (cols < 18.5), 0.9, 0)
    probs[2] = np.where((height > 0) & (cols > 18.5), 0.7, 0)
    probs[0] = 1 - probs[1:].sum(axis=0)
    return probs, height, np.zeros_like(height)


def test_objects_have_class_score_and_order() -> None:
    probs, height, contact = two_hills()
    found = group_objects(probs, height, contact, Grouping())
    assert found.classes.tolist() == [1, 2] and found.scores is not None
    tops = [height[:, :19].max(), height[:, 19:].max()]
    assert found.scores == pytest.approx([0.9 * tops[0], 0.7 * tops[1]], rel=1e-3)
    assert found.masks.areas.tolist() == [int((probs[kind] > 0).sum()) for kind in (1, 2)]


def test_one_class_wins_by_the_sum_over_the_object() -> None:
    probs, height, contact = two_hills()
    probs[1:, 9:11, 10:14] = probs[2:0:-1, 9:11, 10:14]
    assert group_objects(probs, height, contact, Grouping()).classes.tolist() == [1, 2]


def test_what_is_low_small_or_unsure_is_left_out() -> None:
    probs, height, contact = two_hills()
    assert len(group_objects(probs, height * 0.15, contact, Grouping(contact=0))) == 0
    assert len(group_objects(probs, height, contact, Grouping(least_area=1000))) == 0
    assert group_objects(probs, height, contact, Grouping(foreground=0.8)).classes.tolist() == [1]
    assert len(group_objects(probs, height, contact, Grouping(foreground=1.0))) == 0


def test_contacts_part_what_heights_do_not() -> None:
    probs, height, contact = two_hills()
    level = np.where(height > 0, 0.8, 0).astype(np.float32)
    contact[:, 18:20] = 0.9
    assert len(group_objects(probs, level, contact, Grouping(contact=0))) == 1
    assert len(group_objects(probs, level, contact, Grouping(contact=1))) == 2


def test_settings_are_checked_and_kept() -> None:
    some = Grouping(persistence=0.3, least_area=5)
    assert Grouping.from_json(some.to_json()) == some
    assert Grouping.from_json({"persistence": 0.3}) == Grouping(persistence=0.3)
    with pytest.raises(InputError, match=r"foreground is 1\.5: give a share"):
        Grouping(foreground=1.5)
    with pytest.raises(InputError, match="least_area is -1"):
        Grouping(least_area=-1)
    with pytest.raises(InputError, match="unknown setting 'markers'"):
        Grouping.from_json({"markers": 1})
