from __future__ import annotations

import pytest
import torch

from perpixel.errors import InputError
from perpixel.losses import CrossEntropy, Dice, Focal, WeightedSum, create_loss, cross_entropy, parse_loss, soft_dice
from perpixel.losses.spec import Term


def test_terms() -> None:
    assert parse_loss(" 0.5*ce + 2e+1*dice : smooth=1e-5, classes=all, batch=False") == [
        Term(0.5, "ce", {}),
        Term(20.0, "dice", {"smooth": 1e-5, "classes": "all", "batch": False}),
    ]
    assert parse_loss("focal:alpha=1/2/0.5,gamma=2") == [Term(1.0, "focal", {"alpha": (1.0, 2.0, 0.5), "gamma": 2.0})]


def test_the_sum_is_the_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 3, generator=generator)
    target = torch.randint(0, 3, (2, 4, 3), generator=generator)
    target[0, 0] = 255
    weights = torch.tensor([1.0, 2.0, 3.0])
    loss = create_loss("0.5*ce+dice:smooth=1", class_weights=weights, ignore_index=255)
    ce = cross_entropy(logits, target, class_weights=weights, ignore_index=255)
    torch.testing.assert_close(loss(logits, target), 0.5 * ce + soft_dice(logits, target, ignore_index=255, smooth=1))


def test_one_term_is_its_own_module() -> None:
    assert isinstance(create_loss("ce"), CrossEntropy)
    assert isinstance(create_loss("dice"), Dice)
    focal = create_loss("focal:gamma=3")
    assert isinstance(focal, Focal) and focal.gamma == 3
    assert isinstance(create_loss("2*ce"), WeightedSum)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dise", "unknown loss 'dise'; did you mean 'dice'\\? known: bce, bootstrapped, border_ce"),
        ("ce+", "loss 'ce\\+' has an empty term"),
        ("", "has an empty term: write weight\\*name:option=value"),
        ("x*ce", "weight 'x' is not a number of 0 or more"),
        ("-1*ce", "weight '-1' is not a number of 0 or more"),
        ("nan*ce", "weight 'nan' is not a number"),
        ("0*ce", "all weights are 0"),
        ("dice:smoth=1", "loss 'dice' has no option 'smoth'; did you mean 'smooth'"),
        ("dice:smooth", "'smooth' is not option=value"),
        ("dice:smooth=much", "loss 'dice': smooth is 'much': give a number"),
        ("dice:batch=1", "loss 'dice': batch is '1.0': give true or false"),
        ("dice:classes=1", "loss 'dice': classes is '1.0': give a word"),
        ("dice:classes=some", "classes is 'some': give 'present' or 'all'"),
        ("hybrid:gamma=2", "loss 'hybrid' has no option 'gamma': it takes none"),
        ("ce:ignore_index=3", "loss 'ce' has no option 'ignore_index'"),
        ("focal:alpha=big", "alpha is 'big'"),
    ],
)
def test_errors(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_loss(spec)


def test_a_sum_needs_a_weight_for_each_loss() -> None:
    with pytest.raises(InputError, match="1 losses with 2 weights"):
        WeightedSum([Dice()], [1, 2])
