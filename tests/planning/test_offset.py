"""Labels that lie beside the image are noticed, to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from perpixel.labels import ClassInfo, ClassTable
from perpixel.planning import label_facts
from perpixel.planning.offset import label_offset

TABLE = ClassTable((ClassInfo("a", 0, (0, 0, 0)), ClassInfo("b", 1, (255, 0, 0))))


def pairs(down: float, right: float, count: int = 8, noise: float = 10.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    images, label_maps = [], []
    for _ in range(count):
        field = gaussian_filter(rng.normal(size=(480, 480)), 24)
        soft = np.clip(0.5 + field / field.std() * 8, 0, 1)
        # Drawn at four times the size, so that a quarter of a pixel is a whole one.
        moved = shift(soft, (down * 4, right * 4), order=1, mode="nearest")
        label_maps.append((moved.reshape(120, 4, 120, 4).mean((1, 3)) > 0.5).astype(np.uint8))
        images.append((soft.reshape(120, 4, 120, 4).mean((1, 3)) * 100 + rng.normal(0, noise, (120, 120)))[..., None])
    return images, label_maps


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (0.5, 0.0), (-0.5, 0.25), (1.0, -0.75)])
def test_offset_is_found(down: float, right: float) -> None:
    assert label_offset(*pairs(down, right)) == pytest.approx((down, right), abs=0.12)


def test_no_offset_where_nothing_is_certain() -> None:
    images, label_maps = pairs(0.5, 0.5)
    unrelated = [np.random.default_rng(1).normal(size=(120, 120, 1)) for _ in images]
    assert label_offset(unrelated, label_maps) == (0.0, 0.0)
    assert label_offset(images[:3], label_maps[:3]) == (0.0, 0.0)
    assert label_offset([np.zeros((9, 9, 1))] * 8, [np.zeros((9, 9), np.uint8)] * 8) == (0.0, 0.0)
    assert label_offset([np.full((60, 60, 1), np.nan)] * 8, [np.eye(60, dtype=np.uint8)] * 8) == (0.0, 0.0)


def test_cost_by_hand() -> None:
    stripes = [np.repeat(np.arange(120) // 8 % 2, 120).reshape(120, 120).astype(np.uint8)] * 8
    images = [shift(each * 100.0, (0.5, 0), order=1, mode="nearest")[..., None] for each in stripes]
    facts = label_facts(zip(images, stripes), TABLE)
    assert facts.offset == pytest.approx((-0.5, 0.0), abs=0.1)
    # Stripes of eight pixels moved by one: IoU 7 / 9. Half a pixel costs half of what is lost.
    assert facts.offset_cost == pytest.approx((0.5 * (1 - 7 / 9), 0.0), abs=0.03)
