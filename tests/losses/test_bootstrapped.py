from __future__ import annotations

import math

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import Bootstrapped, bootstrapped_cross_entropy, cross_entropy


def test_by_hand() -> None:
    # Probabilities of the pixels' own class, two samples: each keeps its own hardest two.
    probs = torch.tensor([[0.9, 0.5, 0.8, 0.7], [0.2, 0.4, 0.3, 0.6]])
    logits = torch.stack([probs, 1 - probs], dim=1).log().unsqueeze(2)
    target = torch.zeros(2, 1, 4).long()
    expected = -sum(map(math.log, (0.5, 0.7, 0.2, 0.3))) / 4
    for kept in (2, 0.5):
        assert bootstrapped_cross_entropy(logits, target, kept=kept).item() == pytest.approx(expected)
    weighted = bootstrapped_cross_entropy(logits, target, kept=2, class_weights=torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx(expected)


def test_the_share_is_of_valid_pixels() -> None:
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 4, 5).long()
    target[:, 2:] = 255
    part = bootstrapped_cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(part, bootstrapped_cross_entropy(logits[:, :, :2], target[:, :2]))


def test_all_that_there_is() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 4, 5).long()
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, target, kept=512), cross_entropy(logits, target))


def test_errors() -> None:
    with pytest.raises(InputError, match="kept is -3: give a number of pixels, or a share below 1"):
        Bootstrapped(kept=-3)
