from __future__ import annotations

from typing import Any

import pytest

from perpixel.apps.options import chosen, parse_pairs, parse_size
from perpixel.errors import InputError


def test_pairs_become_values() -> None:
    pairs = [
        "width=32",
        "deep-supervision=true",
        "norm=group",
        "weights=none",
        "drop=0.5",
        "sizes=[1,2]",
        "a=b=c",
        "x=",
    ]
    assert parse_pairs(pairs) == {
        "width": 32, "deep_supervision": True, "norm": "group", "weights": None, "drop": 0.5, "sizes": [1, 2],
        "a": "b=c", "x": "",
    }  # fmt: skip
    assert parse_pairs(None) == {}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["width"], "-O 'width': no key=value"),
        (["=3"], "-O '=3': no key=value"),
        (["a=1", "a=2"], "'a' is given twice"),
    ],
)
def test_wrong_pairs(pairs: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pairs(pairs)


def test_sizes() -> None:
    assert parse_size("480x360", "--size", "WxH") == (480, 360)
    assert parse_size(" 256 X 320 ", "--crop", "HxW") == (256, 320)
    assert parse_size("7×9", "--crop", "HxW") == (7, 9)


@pytest.mark.parametrize("text", ["", "480", "480x", "0x3", "-1x3", "1.5x2", "axb", "1x2x3", "٣x٤", "9" * 5000 + "x1"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(InputError, match="not a size: write HEIGHTxWIDTH, two whole numbers"):
        parse_size(text, "--crop", "HEIGHTxWIDTH")


def test_chosen_leaves_defaults_to_the_api() -> None:
    values: dict[str, Any] = {"a": None, "b": [], "c": [1], "d": False, "e": 0}
    assert chosen(values) == {"c": (1,), "d": False, "e": 0}
    assert chosen(values, ("a", "c")) == {"c": (1,)}
