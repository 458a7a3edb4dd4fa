"""Value ranges."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpixel.images import Normalisation, to_display


def test_normalisation_by_hand() -> None:
    rule = Normalisation(low=(0.0, 100.0), high=(200.0, 300.0), mean=(0.5, 0.0), std=(0.25, 2.0))
    image = np.array([[[0, 100], [200, 200]]], np.uint16)
    result = rule.apply(image)
    assert result.dtype == np.float32
    assert result.tolist() == [[[-2, 0], [2, 0.25]]]


def test_per_image_takes_its_own_percentiles() -> None:
    rule = Normalisation((9.0,), (9.0,), (0.0,), (1.0,), per_image=True)
    image = np.arange(1001, dtype=np.float32).reshape(7, 143, 1)
    low, high = rule.limits(image)
    assert low == pytest.approx([5]) and high == pytest.approx([995])
    assert rule.apply(image)[0, 5, 0] == pytest.approx(0, abs=1e-6)
    assert rule.apply(image * 3 + 7) == pytest.approx(rule.apply(image), abs=1e-5)


def test_a_flat_image_has_no_infinities() -> None:
    flat = np.full((4, 4, 1), 7, np.uint8)
    for per_image in (False, True):
        rule = Normalisation((7.0,), (7.0,), (0.5,), (0.25,), per_image)
        assert np.isfinite(rule.apply(flat)).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), st.booleans())
def test_json_round_trip(values: list[float], per_image: bool) -> None:
    low, high, mean, std = ((value, 2 * value) for value in values)
    rule = Normalisation(low, high, mean, std, per_image)
    assert Normalisation.from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_8_bits_are_shown_as_they_are() -> None:
    colour = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(to_display(colour), colour)
    assert np.array_equal(to_display(colour[..., :1]), np.repeat(colour[..., :1], 3, axis=2))
    assert to_display(colour[..., :2])[0, 0].tolist() == [0, 1, 0]
    seven = np.concatenate([colour, colour, colour[..., :1]], axis=2)
    assert np.array_equal(to_display(seven), colour)


def test_deep_images_are_stretched_between_percentiles() -> None:
    image = np.linspace(0, 65535, 1000).astype(np.uint16).reshape(10, 100, 1)
    shown = to_display(image)
    assert shown.dtype == np.uint8 and shown.shape == (10, 100, 3)
    assert shown.min() == 0 and shown.max() == 255
    assert shown[5, 0, 0] == pytest.approx(128, abs=2)


def test_given_ends_hold_for_8_bits_too() -> None:
    image = np.array([[[50], [100], [150]]], np.uint8)
    assert to_display(image, low=50, high=150)[0, :, 0].tolist() == [0, 128, 255]


def test_a_flat_image_is_shown_flat() -> None:
    assert (to_display(np.full((3, 3, 1), 9, np.float32)) == 0).all()
