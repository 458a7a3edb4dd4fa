"""Chances of classes; what plans make of them is in test_plan.py."""

from __future__ import annotations

import pytest

from perpixel.planning import class_chances


def test_chances_by_hand() -> None:
    assert class_chances([900, 100, 0], 0.5) == pytest.approx([1 / 30, 1 / 10, 0])
    assert class_chances([900, 100, 0], 1.0) == pytest.approx([1 / 900, 1 / 100, 0])


def test_equal_chances_need_no_numbers() -> None:
    assert class_chances([900, 100, 0], 0.0) is None
