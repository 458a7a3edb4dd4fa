"""What is shown of a net is what the net computes: scores, sums of skips, gradients, doubts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.images import Normalisation
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.coarse_to_fine import coarse_to_fine, frames
from perpixel.inference.influence import influence_on
from perpixel.inference.insight import MAX_WORKING_SIDE, choose_point, choose_view, class_probs, look, net_input
from perpixel.inference.predictor import Predictor
from perpixel.inference.score_maps import class_layers, score_maps, side_outputs
from perpixel.inference.stage_maps import follow_stages, stage_maps, strongest, worth_of
from perpixel.labels import ClassInfo, ClassTable
from perpixel.layers import crop_like
from perpixel.models import FCN, create_model

WIDTH = {"width": 4, "fc_channels": 8}


def table(count: int) -> ClassTable:
    return ClassTable(tuple(ClassInfo(f"class {n}", (n * 20 % 256, 200 - n, 90), (n,)) for n in range(count)))


def config_of(model: str, *, channels: int = 3, classes: int = 3, scale: float = 1.0, **options: Any) -> BundleConfig:
    norm = Normalisation((0.0,) * channels, (255.0,) * channels, (0.5,) * channels, (0.5,) * channels)
    return BundleConfig(model, options, channels, table(classes), norm, scale, (64, 64), "fp32")


def wake(model: nn.Module) -> nn.Module:
    """Values for layers that start at zero, and large ones, so that the classes differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    return model.eval()


def predictor_of(model: str, *, seed: int = 0, **settings: Any) -> Predictor:
    torch.manual_seed(seed)
    config = config_of(model, **settings)
    net = create_model(model, in_channels=config.channels, num_classes=config.classes.num_classes, **config.options)
    return Predictor(wake(net), config)


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, channels), dtype=np.uint8)


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1))


def fcn(**options: Any) -> FCN:
    torch.manual_seed(0)
    model = wake(create_model("fcn8s", num_classes=3, **WIDTH, **options))
    assert isinstance(model, FCN)
    return model


# ---- an FCN from coarse to fine --------------------------------------------------------------------------------------


def test_scores_of_an_fcn_are_those_recomputed_by_hand() -> None:
    model, image = fcn(), noise(37, 50)
    deep, middle, fine = coarse_to_fine(model, image)
    with torch.no_grad():
        maps = model.trunk(image)
        scores = model.score(model.head(maps["deep"]))
        own = [scores]
        sums = [scores]
        for name, skip in model.skips.items():
            finer: Tensor = skip.score(maps[name])
            up = skip.upsample(sums[-1])
            own.append(crop_like(finer, up, skip.offset) if skip.offset else finer)
            sums.append(skip(sums[-1], maps[name]))
    for rung, name, stride, each, total in zip(
        (deep, middle, fine), ("score", "pool4", "pool3"), (32, 16, 8), own, sums
    ):
        assert (rung.name, rung.stride) == (name, stride)
        assert np.array_equal(rung.scores, total[0].numpy())
        assert np.allclose(rung.own, each[0, :, : total.shape[2], : total.shape[3]].numpy(), atol=1e-6)
    assert deep.scores.shape[1:] < middle.scores.shape[1:] < fine.scores.shape[1:]


@pytest.mark.parametrize("options", [{}, {"learned_upsampling": True}])
def test_what_each_skip_adds_sums_up_to_the_logits(options: dict[str, Any]) -> None:
    model, image = fcn(**options), noise(40, 33)
    rungs = coarse_to_fine(model, image)
    with torch.no_grad():
        logits = model(image)[0].numpy()
    assert np.allclose(sum(rung.logits for rung in rungs), logits, atol=1e-5 * np.abs(logits).max())
    for rung in rungs:
        assert np.abs(rung.logits).max() > 1e-3, f"{rung.name} adds nothing"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["alexnet", "googlenet"])
def test_other_trunks_add_up_and_have_frames(backbone: str) -> None:
    torch.manual_seed(0)
    model, image = wake(create_model("fcn8s", num_classes=3, fc_channels=8, backbone=backbone)), noise(64, 96)
    rungs = coarse_to_fine(model, image)
    with torch.no_grad():
        logits = model(image)[0].numpy()
    assert np.allclose(sum(rung.logits for rung in rungs), logits, atol=1e-5 * np.abs(logits).max())
    found = frames(model, image)
    for name, maps in stage_maps(model, image, found).items():
        height, width = maps.activity.shape
        fits = [s for s in (1, 2, 4, 8, 16, 32) if 0 <= height - 64 / s <= 1 and 0 <= width - 96 / s <= 1]
        assert fits, f"{name}: {height} x {width} cells"


def test_the_first_partial_sum_is_the_net_without_its_skips() -> None:
    model, image = fcn(), noise(40, 33)
    deepest, middle, _ = coarse_to_fine(model, image)
    with torch.no_grad():
        for skip in model.skips.values():
            skip.score.weight.zero_()  # type: ignore[union-attr,operator]
            skip.score.bias.zero_()  # type: ignore[union-attr,operator]
        assert np.allclose(model(image)[0].numpy(), deepest.logits, atol=1e-6)
    assert not np.allclose(deepest.logits, middle.logits)


def test_cells_lie_where_a_bright_spot_in_the_image_moves_them() -> None:
    """The cell that a pixel is said to belong to is the one through which its upsampled logits are the strongest."""
    model, image = fcn(), noise(70, 90)
    for rung in coarse_to_fine(model, image):
        part = model.score if rung.name == "score" else model.skips[rung.name]
        row, col = 40, 61
        cell = int(rung.rows[row]), int(rung.cols[col])

        def spot(_: nn.Module, __: Any, output: Tensor, at: tuple[int, int] = cell) -> Tensor:
            only = torch.zeros_like(output)
            only[..., at[0], at[1]] = 1
            return only

        handle = part.register_forward_hook(spot)
        later = (
            list(model.skips)[list(model.skips).index(rung.name) + 1 :] if rung.name != "score" else list(model.skips)
        )
        silent = [
            model.skips[name].get_submodule("score").register_forward_hook(lambda _, __, o: torch.zeros_like(o))
            for name in later
        ]
        with torch.no_grad():
            found = model(image)[0, 0]
        for each in (handle, *silent):
            each.remove()
        assert found[row, col] > 0.2 * found.max(), rung.name
        peak = divmod(int(found.argmax()), found.shape[1])
        assert abs(peak[0] - row) <= rung.stride / 2 + 1 and abs(peak[1] - col) <= rung.stride / 2 + 1, rung.name


def test_frames_leave_the_padding_of_an_fcn_out() -> None:
    model, image = fcn(), noise(64, 96)
    found = frames(model, image)
    assert set(found) == set(model.stages())
    sizes = {name: tuple(part.stop - part.start for part in each) for name, each in found.items()}
    assert sizes["upsample"] == (64, 96)
    assert sizes["block1"] == (32, 48) or sizes["block1"] == (33, 49)
    for name, stride in (("block3", 8), ("skip pool3", 8), ("block4", 16), ("score", 32)):
        assert all(0 <= side - size / stride <= 1 for side, size in zip(sizes[name], (64, 96))), name
    rung = coarse_to_fine(model, image)[-1]
    rows, cols = found["skip pool3"]
    assert (rows.start, rows.stop - 1) == (rung.rows[0], rung.rows[-1])
    assert (cols.start, cols.stop - 1) == (rung.cols[0], rung.cols[-1])
    assert frames(create_model("unet", width=2), image) == {}
    assert coarse_to_fine(create_model("unet", width=2), image) == ()


# ---- score maps and side outputs -------------------------------------------------------------------------------------


def test_class_layers_are_told_from_layers_of_the_same_width() -> None:
    config = config_of("unet", classes=4, width=4)
    model = create_model("unet", num_classes=4, width=4)
    same_width = [n for n, p in model.named_modules() if isinstance(p, nn.Conv2d) and p.out_channels == 4]
    assert len(same_width) > 1
    assert len(class_layers(model, config)) == 1


def test_score_maps_are_what_the_heads_return() -> None:
    predictor = predictor_of("gcn", encoder="resnet18")
    image, heard = noise(64, 64), {}
    stages = predictor.model.stages()  # type: ignore[operator]
    for name, part in stages.items():
        part.register_forward_hook(lambda _, __, output, name=name: heard.update({name: output}))
    found = score_maps(predictor.model, image, predictor.config)
    assert {"GCN 1/32", "GCN 1/16", "GCN 1/8", "GCN 1/4"} <= {each.name for each in found}
    for each in found:
        assert np.array_equal(each.scores, heard[each.name][0].numpy())


def test_side_outputs_are_those_of_training_with_the_trained_norms() -> None:
    predictor = predictor_of("unet_plus_plus", width=2, norm=True, deep_supervision=True)
    model, image = predictor.model, noise(32, 48)
    modes = [part.training for part in model.modules()]
    sides, presence = side_outputs(model, image)
    assert presence is None
    with torch.no_grad():
        heads = model.head_logits(image)  # type: ignore[operator]
    assert len(sides) == 3
    for side, head in zip(sides, heads[-2::-1]):
        assert np.allclose(side, head[0].numpy(), atol=1e-6)
    assert [part.training for part in model.modules()] == modes


def test_presence_is_a_probability_for_each_class() -> None:
    predictor = predictor_of("unet_3plus", width=2, deep_supervision=True, classification_guided=True)
    sides, presence = side_outputs(predictor.model, noise(32, 32))
    assert len(sides) == 4
    assert presence is not None and presence.shape == (3,) and (presence > 0).all() and (presence < 1).all()


# ---- what a pixel sees -----------------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """Class 1 is the image 3 rows up and 2 columns to the left; class 0 is nothing."""

    def forward(self, image: Tensor) -> Tensor:
        moved = image.sum(1, keepdim=True).roll((3, 2), dims=(2, 3))
        return torch.cat([moved * 0, moved], dim=1)


def test_influence_is_where_the_logit_comes_from() -> None:
    image = torch.ones(1, 2, 20, 30)
    found = influence_on(Shifted(), image, (10, 12), step=(2.0, 2.0))
    assert found.label == 1
    assert np.argwhere(found.gradient).tolist() == [[7, 10]]
    assert found.gradient[7, 10] == 2  # two channels
    assert found.box == (20, 14, 22, 16)
    assert found.half == pytest.approx(np.hypot(6, 4)) and found.most == found.half
    assert found.curve[0] == (0.0, 0.0) and found.curve[-1][1] == 1


def test_influence_without_any_gradient() -> None:
    model = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(model.weight)
    found = influence_on(model, noise(8, 8), (3, 3), step=(1.0, 1.0))
    assert (found.half, found.most, found.box, found.curve) == (None, None, None, ())


def test_influence_stays_within_the_kernels_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 5, padding=2))
    model[0].weight.requires_grad_(False)
    found = influence_on(model, noise(20, 20), (9, 11), step=(1.0, 1.0))
    assert found.box == (8, 6, 15, 13)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())


# ---- stages ----------------------------------------------------------------------------------------------------------


def test_strongest_maps_vary_and_are_not_alike() -> None:
    ramp = torch.arange(36.0).view(6, 6)
    maps = torch.stack([ramp * 0 + 9, ramp, -5 * ramp, ramp.T * 2, ramp * 0.1])
    assert strongest(maps) == [2, 3, 0] or strongest(maps)[:2] == [2, 3]


def test_worth_of_the_last_stage_is_all_but_one_class() -> None:
    model = nn.Sequential(nn.Identity())
    logits = torch.zeros(1, 2, 4, 5)
    logits[0, 1, 0, :2] = 7  # two pixels of class 1; by the mean all would be of class 1
    assert worth_of(model, model[0], logits, logits) == pytest.approx(18 / 20)


def test_stages_are_followed_in_order_and_within_the_time() -> None:
    model, image = fcn(), noise(40, 40)
    with torch.no_grad():
        logits = model(image)
    told: list[str] = []
    found = follow_stages(model, image, logits, worth_s=0, on_progress=lambda done, total, what: told.append(what))
    assert [each.name for each in found] == list(model.stages())
    assert all(each.worth is None for each in found) and len(told) == len(found)
    assert stage_maps(model, image)["score"].low == pytest.approx(coarse_to_fine(model, image)[0].scores.min())


# ---- views -----------------------------------------------------------------------------------------------------------


def test_a_large_image_is_cropped_around_the_point() -> None:
    predictor = predictor_of("unet", width=2, depth=2, scale=2.0)
    side = MAX_WORKING_SIDE // 2
    image = np.zeros((side + 100, side - 10, 3), np.uint8)
    view = choose_view(predictor, image, (side + 90, 7))
    assert view.is_part and view.box == (0, 100, side - 10, side + 100)
    assert view.point == (side - 10, 7)
    assert choose_view(predictor, image[:20]).is_part is False
    assert choose_view(predictor, image).box == (0, 50, side - 10, side + 50)


def test_a_view_is_normalised_by_the_limits_of_the_whole_image() -> None:
    predictor = predictor_of("unet", width=2, depth=2, channels=1)
    image = photo(MAX_WORKING_SIDE + 40, 30, 1)
    image[-10:] = 255
    config = predictor.config
    object.__setattr__(config, "normalisation", Normalisation((0.0,), (1.0,), (0.0,), (1.0,), per_image=True))
    view = choose_view(predictor, image, (0, 0))
    whole = config.normalisation.apply(image)[:MAX_WORKING_SIDE]
    assert np.allclose(net_input(predictor, view)[0, 0].numpy(), whole[..., 0], atol=1e-6)


def test_choose_point_lies_deep_in_the_rarest_region() -> None:
    labels = np.zeros((40, 40), int)
    labels[10:19, 20:31] = 2
    labels[0, 0] = 1  # one pixel in 1600: too rare
    row, col = choose_point(labels)
    assert labels[row, col] == 2 and row == 14 and 24 <= col <= 26


# ---- all of it -------------------------------------------------------------------------------------------------------


def test_look_agrees_with_predict() -> None:
    predictor = predictor_of("unet", width=4, depth=2)
    image = photo(48, 56)
    found = look(predictor, choose_view(predictor, image, (20, 33)))
    expected = predictor.predict(image, probs=True, uncertainty=True)
    assert expected.probs is not None and expected.uncertainty is not None
    assert np.array_equal(found.label_map, expected.label_map)
    assert np.allclose(found.probs, expected.probs, atol=1e-5)
    assert np.allclose(found.uncertainty, expected.uncertainty, atol=1e-4)
    ordered = np.sort(found.probs, axis=0)
    assert np.allclose(found.margin, ordered[-1] - ordered[-2], atol=1e-6)
    assert (found.runner_up != found.label_map).all()
    assert found.point == (20, 33)
    assert found.influence.label == found.label_map[20, 33]
    assert found.samples is None and found.rungs == () and found.sides == ()


def test_the_point_is_found_at_the_working_size() -> None:
    predictor = predictor_of("unet", width=2, depth=2, scale=0.5)
    found = look(predictor, choose_view(predictor, photo(40, 60), (39, 20)))
    assert found.label_map.shape == (20, 30)
    assert found.point == (19, 10)


def test_dropout_samples_are_repeatable_and_their_variance_is_that_of_the_passes() -> None:
    predictor = predictor_of("bayesian_segnet", width=4)
    view = choose_view(predictor, photo(32, 32))
    first, second = (look(predictor, view, samples=3, seed=5).samples for _ in range(2))
    assert first is not None and second is not None
    assert np.array_equal(first.variance, second.variance) and first.variance.max() > 0
    from perpixel.inference.sampling import sampling

    with torch.no_grad(), sampling(predictor.model, predictor.device, 5):
        passes = torch.stack([class_probs(predictor.model(net_input(predictor, view))) for _ in range(3)])
    assert np.allclose(first.variance, passes.var(0, unbiased=False).mean(0).numpy(), atol=1e-5)


def test_one_logit_is_two_classes() -> None:
    predictor = predictor_of("unet", width=2, depth=2, classes=1)
    found = look(predictor, choose_view(predictor, photo(20, 20)))
    assert found.probs.shape == (2, 20, 20) and np.allclose(found.probs.sum(0), 1)
    assert np.array_equal(found.label_map, (found.logits[0] > 0).astype(int))
