from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import GeneralisedDice, generalised_dice, soft_dice


def example(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 4, 3, generator=generator)
    return logits, torch.randint(0, max(channels, 2), (2, 4, 3), generator=generator)


def test_by_hand() -> None:
    # p of class 0: 0.8, 0.4, 0.5; truth 0, 1, 1, so the classes weigh 1 and 1/4
    logits = torch.tensor([[0.8, 0.4, 0.5], [0.2, 0.6, 0.5]]).log()[None, :, None]
    overlap, both = 1 * 0.8 + 0.25 * 1.1, 1 * (1.7 + 1) + 0.25 * (1.3 + 2)
    cost = generalised_dice(logits, torch.tensor([[[0, 1, 1]]]), smooth=0)
    assert cost.item() == pytest.approx(1 - 2 * overlap / both)


def test_smooth_is_in_pixels_however_large_the_image() -> None:
    """Unscaled weights of 1e-10 would drown in a smoothing term of 1e-5."""
    logits, target = torch.zeros(1, 2, 400, 500), torch.zeros(1, 400, 500).long()
    target[:, :200] = 1
    assert generalised_dice(logits, target).item() == pytest.approx(0.5, abs=1e-6)


def test_a_class_of_its_own_is_dice() -> None:
    logits, target = example(1)
    for batch in (True, False):
        torch.testing.assert_close(
            generalised_dice(logits, target, batch=batch), soft_dice(logits, target, batch=batch)
        )


def test_it_agrees_with_monai() -> None:
    losses = pytest.importorskip("monai.losses")
    logits, target = example()
    theirs = losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(generalised_dice(logits, target, smooth=0), theirs(logits, target.unsqueeze(1)))


def test_the_mean_over_samples_leaves_out_those_without_a_counted_class() -> None:
    logits, target = example()
    target[1] = 0
    both = generalised_dice(logits, target, batch=False, include_background=False)
    torch.testing.assert_close(both, generalised_dice(logits[:1], target[:1], include_background=False))
    assert generalised_dice(logits[1:], target[1:], include_background=False).item() == 0


def test_errors() -> None:
    with pytest.raises(InputError, match="smooth is -1: give 0 or more"):
        GeneralisedDice(smooth=-1)
