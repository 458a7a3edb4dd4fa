from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from perpixel.errors import InputError
from perpixel.losses import BinaryCrossEntropy, CrossEntropy, binary_cross_entropy, create_loss, cross_entropy


def pixels(*rows: list[float]) -> torch.Tensor:
    """Logits (1, K, 1, N) whose softmax at pixel n is rows[n]."""
    return torch.tensor(rows).log().T[None, :, None]


def test_by_hand() -> None:
    logits = pixels([0.5, 0.25, 0.25], [0.2, 0.2, 0.6])
    target = torch.tensor([[[0, 2]]])
    assert cross_entropy(logits, target).item() == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2)


def test_the_weighted_mean_divides_by_the_weights() -> None:
    logits = pixels([0.5, 0.25, 0.25], [0.2, 0.2, 0.6])
    target = torch.tensor([[[0, 2]]])
    expected = -(1 * math.log(0.5) + 3 * math.log(0.6)) / (1 + 3)
    weights = torch.tensor([1.0, 7.0, 3.0])
    assert cross_entropy(logits, target, class_weights=weights).item() == pytest.approx(expected)


def test_label_smoothing_spreads_the_target() -> None:
    logits = pixels([0.5, 0.25, 0.25])
    target = torch.tensor([[[0]]])
    share = 0.3 / 3
    expected = -((0.7 + share) * math.log(0.5) + 2 * share * math.log(0.25))
    assert cross_entropy(logits, target, label_smoothing=0.3).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_agrees_with_torch(smoothing: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 3, generator=generator)
    target = torch.randint(0, 5, (2, 4, 3), generator=generator)
    target[0, 1] = 9
    weights = torch.rand(5, generator=generator) if weighted else None
    ours = cross_entropy(logits, target, class_weights=weights, ignore_index=9, label_smoothing=smoothing)
    theirs = F.cross_entropy(logits, target, weights, ignore_index=9, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)


def test_one_channel_equals_two_with_a_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 3, generator=generator)
    target = torch.randint(0, 2, (2, 4, 3), generator=generator)
    target[0, 0] = 255
    weights = torch.tensor([0.5, 3.0])
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    for smoothing in (0.0, 0.2):
        one = cross_entropy(logits, target, class_weights=weights, ignore_index=255, label_smoothing=smoothing)
        both = cross_entropy(two, target, class_weights=weights, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(one, both)


def test_only_classes_of_weight_zero_cost_nothing() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(1, 2, 2).long(), class_weights=torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and (logits.grad == 0).all()


def test_binary_with_pos_weight_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 1, 1, 2)  # p = 1/2, 3/4
    target = torch.tensor([[[1, 0]]])
    expected = -(4 * math.log(0.5) + math.log(0.25)) / 2
    assert binary_cross_entropy(logits, target, pos_weight=4.0).item() == pytest.approx(expected)


def test_binary_batch_weight_counts_valid_pixels() -> None:
    logits = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[[1, 0, 0, 0, 255, 255]]])
    counted = binary_cross_entropy(logits, target, pos_weight="batch", ignore_index=255)
    given = binary_cross_entropy(logits, target, pos_weight=3.0, ignore_index=255)
    torch.testing.assert_close(counted, given)
    nothing = torch.zeros_like(target)
    torch.testing.assert_close(
        binary_cross_entropy(logits, nothing, pos_weight="batch"), binary_cross_entropy(logits, nothing)
    )


def test_class_weights_become_the_pos_weight() -> None:
    assert BinaryCrossEntropy(class_weights=torch.tensor([0.5, 2.0])).pos_weight == 4


def test_counts_of_the_data_become_the_pos_weight() -> None:
    assert create_loss("bce", class_pixels=[30, 10]).pos_weight == 3
    assert create_loss("bce", class_pixels=[30, 0]).pos_weight == 1
    assert create_loss("bce", class_pixels=[30, 10], class_weights=torch.tensor([1.0, 5.0])).pos_weight == 5
    assert create_loss("bce:pos_weight=7", class_pixels=[30, 10]).pos_weight == 7
    assert create_loss("bce").pos_weight == 1


def test_binary_of_two_channels_is_that_of_their_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 3, generator=generator)
    target = torch.randint(0, 2, (2, 4, 3), generator=generator)
    torch.testing.assert_close(
        binary_cross_entropy(logits, target, pos_weight=3.0),
        binary_cross_entropy(logits[:, 1:] - logits[:, :1], target, pos_weight=3.0),
    )
    torch.testing.assert_close(binary_cross_entropy(logits, target), cross_entropy(logits, target))


def test_weights_follow_the_module_but_not_its_checkpoint() -> None:
    loss = CrossEntropy(class_weights=torch.ones(3))
    assert loss.double().class_weights.dtype == torch.float64
    assert not loss.state_dict()


def test_errors() -> None:
    with pytest.raises(InputError, match=r"class_weights has shape \(3,\) for logits of 4 channels: give 4 weights"):
        cross_entropy(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long(), class_weights=torch.ones(3))
    with pytest.raises(InputError, match=r"label_smoothing is 1\.5: give a share between 0 and 1"):
        CrossEntropy(label_smoothing=1.5)
    with pytest.raises(InputError, match=r"logits \(1, 3, 4, 4\): the binary losses take two classes, as one channel"):
        BinaryCrossEntropy()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long())
    with pytest.raises(InputError, match="class_pixels of 3 classes: the binary loss takes 2"):
        create_loss("bce", class_pixels=[1, 2, 3])
    with pytest.raises(InputError, match="pos_weight is 'all': give a positive number or 'batch'"):
        BinaryCrossEntropy(pos_weight="all")
    with pytest.raises(InputError, match="pos_weight is -1"):
        BinaryCrossEntropy(pos_weight=-1)
    with pytest.raises(InputError, match="pos_weight is 'all': give a positive number or 'batch'"):
        binary_cross_entropy(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long(), pos_weight="all")
    with pytest.raises(InputError, match=r"logits \(4, 4\) torch.float32: a loss needs floats"):
        cross_entropy(torch.zeros(4, 4), torch.zeros(4, 4).long())
