"""The loss of the height map by hand."""

from __future__ import annotations

import pytest
import torch

from perpixel.losses import hill_loss

HEIGHT = torch.tensor([[[0.0, 0.0, 0.5, 1.0]]])
KNOWN = torch.ones(1, 1, 4, dtype=torch.bool)


def of(*heights: float, known: torch.Tensor = KNOWN) -> float:
    return float(hill_loss(torch.logit(torch.tensor([[heights]])), HEIGHT, known))


def test_objects_and_background_count_alike() -> None:
    # |d| - 0.05 beyond 0.1, 5 d^2 below.
    assert of(1e-9, 1e-9, 0.5, 1 - 1e-7) == pytest.approx(0, abs=1e-6)
    assert of(0.25, 1e-9, 0.5, 0.6) == pytest.approx(0.2 / 2 + 0.35 / 2, abs=1e-5)
    assert of(1e-9, 1e-9, 0.55, 1 - 1e-7) == pytest.approx(5 * 0.05**2 / 2, abs=1e-5)


def test_unknown_pixels_and_missing_parts() -> None:
    known = torch.tensor([[[True, False, True, False]]])
    assert of(0.25, 0.9, 0.5, 0.1, known=known) == pytest.approx(0.2, abs=1e-5)
    assert of(0.25, 0.9, 0.5, 0.1, known=torch.zeros_like(KNOWN)) == 0
    only_background = torch.tensor([[[True, True, False, False]]])
    assert of(0.25, 0.25, 0.9, 0.1, known=only_background) == pytest.approx(0.2, abs=1e-5)


def test_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hill_loss(torch.zeros(1, 1, 4, dtype=torch.bfloat16), HEIGHT, KNOWN)
    assert loss.dtype == torch.float32
