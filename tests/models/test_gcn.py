"""GCN: exact counts, what a large separable kernel sees, nine refinements, learned upsamplers that start bilinear."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.layers import bilinear_kernel
from perpixel.models import GCN, create_model
from perpixel.models.gcn import CARD, BoundaryRefinement, GlobalConvolution


def count(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


@pytest.mark.parametrize("expected", CARD.counts, ids=lambda each: each.label)
def test_parameter_counts(expected):
    with torch.device("meta"):
        model = create_model("gcn", num_classes=expected.num_classes, **expected.options)
    assert count(model) == expected.expected


def test_heads_for_21_classes_by_hand():
    with torch.device("meta"):
        model, small = GCN(), GCN(kernel=7)
    sums = 256 + 512 + 1024 + 2048
    assert count(model.scores) == 2 * 15 * (sums * 21 + 4 * 21 * 21) + 4 * 4 * 21 == 2_472_456
    assert count(small.scores) == 2 * 7 * (sums * 21 + 4 * 21 * 21) + 4 * 4 * 21 == 1_153_992
    assert count(model.refine, model.refine_up) == 9 * 2 * (9 * 21 * 21 + 21) == 71_820
    assert count(model.scores, model.refine, model.refine_up) == 2_544_276
    assert count(model.up) == 5 * 21 * 21 * 16
    assert len(model.refine) + len(model.refine_up) == 9


@torch.no_grad()
def test_a_global_convolution_sees_a_square_from_both_sides():
    """With weights of one, a bright cell lights k x k cells twice, once a branch; a cross would be no kernel."""
    part = GlobalConvolution(1, 1, 5)
    for conv in part.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.ones_(conv.weight)
            nn.init.zeros_(conv.bias)
    maps = torch.zeros(1, 1, 9, 9)
    maps[..., 4, 4] = 1
    expected = torch.zeros(1, 1, 9, 9)
    expected[..., 2:7, 2:7] = 2
    assert torch.equal(part(maps), expected)
    assert [conv.kernel_size for conv in part.left] == [(5, 1), (1, 5)]
    assert [conv.kernel_size for conv in part.right] == [(1, 5), (5, 1)]
    assert {type(each) for each in part.modules()} == {GlobalConvolution, nn.Sequential, nn.Conv2d}


@torch.no_grad()
def test_refinement_adds_to_the_scores_and_leaves_them():
    part = BoundaryRefinement(2)
    nn.init.dirac_(part.conv1.weight)
    nn.init.dirac_(part.conv2.weight)
    nn.init.zeros_(part.conv1.bias)
    nn.init.zeros_(part.conv2.bias)
    scores = torch.randn(1, 2, 4, 4)
    before = scores.clone()
    assert torch.equal(part(scores), before + before.relu())
    assert torch.equal(scores, before)


def test_upsamplers_are_learned_and_start_bilinear():
    model = GCN(3, 3, encoder="resnet18")
    for up in model.up:
        assert isinstance(up.weight, nn.Parameter)
        assert torch.equal(up.weight[1, 1], bilinear_kernel(2))
        assert not up.weight[0, 1].any()
    assert model.up[0](torch.zeros(1, 3, 5, 7)).shape == (1, 3, 10, 14)


@torch.no_grad()
def test_decoder_by_hand():
    torch.manual_seed(0)
    model = GCN(3, 2, encoder="resnet18", kernel=7).eval()
    image = torch.randn(1, 3, 70, 45)
    features = model.encoder(image)
    scored = [refine(part(features[tap])) for part, refine, tap in zip(model.scores, model.refine, (4, 3, 2, 1))]
    assert [tuple(each.shape[2:]) for each in scored] == [(3, 2), (5, 3), (9, 6), (18, 12)]
    logits = scored[0]
    for number in (1, 2, 3):
        rows, cols = scored[number].shape[2:]
        logits = model.refine_up[number - 1](model.up[number - 1](logits)[..., :rows, :cols] + scored[number])
    logits = model.refine_up[4](model.up[4](model.refine_up[3](model.up[3](logits))))
    assert logits.shape == (1, 2, 72, 48)
    assert torch.allclose(model(image), logits[..., :70, :45], atol=1e-5)


@torch.no_grad()
def test_scores_start_at_a_sane_size():
    torch.manual_seed(0)
    part = GCN(3, 21, encoder="resnet18").scores[0]
    scores = part(torch.randn(1, 512, 32, 32))
    assert 0.3 < scores.std() < 10


@torch.no_grad()
def test_other_encoders():
    model = GCN(1, 2, encoder="convnext_atto", kernel=3).eval()
    assert model(torch.zeros(1, 1, 37, 50)).shape == (1, 2, 37, 50)


@pytest.mark.parametrize("kernel", [14, 0, -1])
def test_even_kernels_are_refused(kernel):
    with pytest.raises(InputError, match=f"option kernel={kernel} of gcn: choose an odd number"):
        GCN(3, 2, encoder="resnet18", kernel=kernel)
