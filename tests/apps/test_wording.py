from __future__ import annotations

import math
from typing import Any

import pytest

from perpixel.apps import wording


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.21, "4.2 s"), (9.96, "10 s"), (59.9, "60 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"),
     (3599.6, "1 h 00 min"), (3780, "1 h 03 min"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_duration(seconds: Any, text: str) -> None:
    assert wording.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(950, "950"), (1500, "1.5 k"), (24_436_000, "24.4 M"), (999_700, "1000 k"), (3.1e12, "3.1 T")]
)
def test_large(value: Any, text: str) -> None:
    assert wording.format_large(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0371, "3.7 %"), (0, "0.0 %"), (0.0004, "0.04 %"), (2e-7, "<0.01 %"), (1, "100.0 %")]
)
def test_share(value: Any, text: str) -> None:
    assert wording.format_share(value) == text


def test_how_images_were_predicted() -> None:
    assert wording.format_way({"tta": False, "dropout_samples": 0, "prune_level": None}) == ""
    assert wording.format_way({"output_stride": 8, "prune_level": None}) == "output stride 8"
    assert wording.format_way({"tta": True}) == "mean over mirror images"
    scores = {"dropout_samples": 20, "prune_level": 2}
    assert wording.format_way(scores) == "pruned to level 2, mean of 20 passes with dropout"


def test_what_is_no_number_is_a_dash() -> None:
    for form in (wording.format_score, wording.format_count, wording.format_share, wording.format_rate):
        assert [form(value) for value in (None, math.nan, math.inf, "<b>", True)] == ["–"] * 5
    assert wording.format_interval([0.1, math.nan]) == wording.format_interval(None) == ""
    assert wording.format_interval((0.71, 0.752)) == "0.710 to 0.752"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), ({}, "none"), (True, "yes"), (0.00123456, "0.001235"), ([256, 320], "256, 320"),
     ({"flip": True, "scale": [0.5, 2.0]}, "flip yes, scale (0.5, 2)"), ("unet", "unet")],
)  # fmt: skip
def test_setting(value: Any, text: str) -> None:
    assert wording.format_setting(value) == text


def test_names_cannot_steer_the_terminal() -> None:
    assert wording.printable("a\x1b[31mb\n\udcff") == "a\\x1b[31mb\\n\\udcff"
    assert wording.one_line("two\n  lines\x07") == "two lines\\x07"
    assert wording.plural(1, "image") == "1 image" and wording.plural(1200, "image") == "1,200 images"
