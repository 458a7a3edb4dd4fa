"""V-Net: exact counts, the paper's receptive fields, MONAI's numbers, sizes, and training in bf16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.losses import create_loss
from perpixel.models import VNet, create_model, from_monai, vnet, vnet_monai
from perpixel.models.cards import CARDS
from perpixel.models.describe import describe

FORMS = ("vnet", "vnet_release", "vnet_monai")
# The paper's table: what a cell of each stage sees, down and up.
PAPER_FIELDS = (5, 22, 72, 172, 372, 476, 528, 546, 551)


def count(model: nn.Module, *, slopes: bool = True) -> int:
    left_out = set() if slopes else {id(each) for part in model.modules() if isinstance(part, nn.PReLU)
                                     for each in part.parameters()}  # fmt: skip
    return sum(each.numel() for each in model.parameters() if id(each) not in left_out)


def on_meta(name: str, in_channels: int = 1, num_classes: int = 2, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, in_channels=in_channels, num_classes=num_classes, **options)


@pytest.mark.parametrize("name", FORMS)
def test_counts_of_the_cards(name):
    for each in CARDS[name].counts:
        assert count(on_meta(name, each.in_channels, each.num_classes, **each.options)) == each.expected


def test_counts_without_slopes():
    assert count(on_meta("vnet"), slopes=False) == 65_171_858
    assert round(count(on_meta("vnet_release"), slopes=False) / 1e6, 2) == 61.98
    assert round(count(on_meta("vnet_monai"), slopes=False) / 1e6, 2) == 45.60


def fields(name: str) -> list[int]:
    rows = describe(on_meta(name), in_channels=1, size=(32, 32, 32)).rows
    return [row.receptive_field for row in rows if row.name != "head"]


def test_receptive_fields_are_those_of_the_papers_table():
    """The paper takes each transposed convolution for one more step on the finer grid: 8, 4, 2 and 1 voxels."""
    more = (0, 0, 0, 0, 0, 8, 8 + 4, 8 + 4 + 2, 8 + 4 + 2 + 1)
    assert tuple(field + step for field, step in zip(fields("vnet"), more)) == PAPER_FIELDS
    assert [(fields(name)[4], fields(name)[-1] + 15) for name in FORMS] == [(372, 551), (348, 503), (284, 407)]


@pytest.mark.parametrize("activation", ["elu", "prelu"])
@torch.no_grad()
def test_monais_weights_give_monais_numbers(activation):
    from monai.networks.nets import VNet as MonaiVNet

    torch.manual_seed(0)
    theirs = MonaiVNet(3, in_channels=2, out_channels=3, act=activation).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    ours = vnet_monai(2, 3, activation=activation).eval()
    ours.load_state_dict(from_monai(theirs.state_dict()))
    volume = torch.randn(1, 2, 16, 32, 16)
    torch.testing.assert_close(ours(volume), theirs(volume), atol=1e-6, rtol=1e-6)


def test_drop_out_is_where_monai_has_it():
    from monai.networks.nets import VNet as MonaiVNet

    with torch.device("meta"):
        theirs, ours = MonaiVNet(3, 1, 2), vnet_monai(1, 2)
    given = [part.p for part in theirs.modules() if isinstance(part, nn.Dropout3d)]
    made = [part.p for part in ours.modules() if isinstance(part, nn.Dropout3d) and part.p]
    assert len(given) == len(made) == 8 and set(given) == set(made) == {0.5}


def test_a_foreign_tensor_is_named():
    with pytest.raises(InputError, match=r"tensor 'in_tr.norm.weight' belongs to no VNet of MONAI"):
        from_monai({"in_tr.norm.weight": torch.zeros(1)})


def twin(volume: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The paper's figure with two stages, wired by hand."""

    def stage(name: str, maps: Tensor, shortcut: Tensor, convs: int) -> Tensor:
        for number in range(convs):
            conv = f"{name}.convs.{number}.0"
            maps = F.conv3d(maps, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=2)
            maps = maps + shortcut if number == convs - 1 else maps
            maps = F.prelu(maps, state[f"{name}.acts.{number}.weight"])
        return maps

    first = stage("down.0", volume, volume.repeat(1, 4, 1, 1, 1), 1)
    second = F.conv3d(first, state["down.1.step.weight"], state["down.1.step.bias"], stride=2)
    second = F.prelu(second, state["down.1.act.weight"])
    second = stage("down.1.stage", second, second, 2)
    up = F.conv_transpose3d(second, state["up.0.step.weight"], state["up.0.step.bias"], stride=2)
    both = torch.cat([F.prelu(up, state["up.0.act.weight"]), first], 1)
    both = stage("up.0.stage", both, both, 1)
    return F.conv3d(both, state["head.weight"], state["head.bias"])


@torch.no_grad()
def test_two_stages_are_the_papers_figure():
    torch.manual_seed(0)
    model = vnet(1, 2, width=4, depth=2).eval()
    volume = torch.randn(2, 1, 6, 8, 4)
    torch.testing.assert_close(model(volume), twin(volume, model.state_dict()))


def test_stages_of_the_paper():
    model = on_meta("vnet")
    assert [len(getattr(each, "stage", each).convs) for each in model.down] == [1, 2, 3, 3, 3]
    assert [len(each.stage.convs) for each in model.up] == [3, 3, 2, 1]
    assert [each.stage.channels for each in model.up] == [256, 128, 64, 32]
    assert not any(isinstance(part, nn.BatchNorm3d) or getattr(part, "p", 0) for part in model.modules())


@pytest.mark.parametrize(("channels", "kept"), [(1, [0, 0, 0, 0]), (3, [0, 1, 2, 0]), (6, [0, 1, 2, 3])])
@torch.no_grad()
def test_first_shortcut_is_the_volume_repeated_or_cut(channels, kept):
    first = vnet(channels, 2, width=4, depth=2).down[0]
    for each in first.convs.parameters():
        each.zero_()
    volume = torch.rand(1, channels, 4, 4, 4)
    assert first(volume).equal(volume[:, kept])


def test_deep_supervision_is_of_training_only_and_fine_to_coarse():
    torch.manual_seed(0)
    model = vnet(1, 2, width=4, kernel=3, depth=4, deep_supervision=True)
    assert model.aux_weights == (0.5, 0.25)
    volume = torch.randn(1, 1, 9, 16, 12)
    outputs = model.train()(volume)
    assert [each.shape for each in outputs] == [(1, 2, 9, 16, 12)] * 3
    assert torch.equal(model.eval()(volume), outputs[0])
    assert [head.in_channels for head in model.aux_heads] == [16, 32]


def segment(volume: Tensor) -> Tensor:
    return (F.avg_pool3d(volume[:, :1], 5, 1, 2)[:, 0] > 0).long()


def losses_in_bf16(model: nn.Module, side: int, steps: int) -> list[float]:
    """V-Net's own Dice at every step of momentum training in bf16."""
    torch.manual_seed(1)
    volume = torch.randn(1, 1, side, side, side)
    target, loss_of = segment(volume), create_loss("dice:squared=true,include_background=false")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.train()(volume)
        loss = loss_of(logits, target)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_gradients_in_bf16_are_near_those_of_fp32():
    """At 32 voxels the three deepest stages hold maps shorter than their kernels."""
    torch.manual_seed(0)
    model = vnet(1, 2, width=4).train()
    volume = torch.randn(1, 1, 32, 32, 32)
    target = segment(volume)
    grads = []
    for in_bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logits = model(volume)
        grads.append(torch.autograd.grad(F.cross_entropy(logits.float(), target), list(model.parameters())))
    for (name, _), exact, near in zip(model.named_parameters(), *grads):
        assert near.isfinite().all(), name
        assert (near - exact).norm() < 0.2 * exact.norm() + 1e-6, name


@pytest.mark.slow
def test_two_hundred_steps_in_bf16_without_nan():
    torch.manual_seed(0)
    found = losses_in_bf16(vnet(1, 2, width=4), side=32, steps=200)
    assert all(each == each for each in found)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "option width=0 of vnet"),
        ({"depth": 6}, "option depth=6 of vnet: choose 2 to 5 stages"),
        ({"kernel": 4}, "option kernel=4 of vnet: choose 3 or 5"),
        ({"norm": "layer"}, "option norm='layer' of vnet: choose one of 'none', 'batch', 'instance'"),
        ({"activation": "relu"}, "option activation='relu' of vnet: choose one of 'prelu', 'elu', 'leaky_relu'"),
        ({"dropout": 1.0}, r"option dropout=1\.0 of vnet"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        VNet(1, 2, **options)
