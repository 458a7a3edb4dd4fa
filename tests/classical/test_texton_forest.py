"""The whole texton forest: it learns, refuses, and is the same from disk, by any threads and in either form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from perpixel.classical import texton_forest
from perpixel.classical.texton_forest import TextonForest
from perpixel.classical.texton_sampling import Seen, class_quotas, draw_pixels, grid_pixels
from perpixel.errors import InputError
from perpixel.models import load_weights, save_weights

SMALL: dict[str, Any] = {
    "patch": 5, "trees": 3, "depth": 5, "tests": 40, "pool": 200, "grid": 2, "bag_nodes": 30, "reach": 32,
    "region_depth": 6,
}  # fmt: skip
SIZE = 40


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A ceiling, red or blue (classes 2 and 3), above a floor of one texture: class 0 below red, class 1 below blue."""
    random = np.random.default_rng(number)
    image = random.random((3, SIZE, SIZE)).astype(np.float32)
    below_red = number % 2 == 0
    image[:, :14] *= 0.3
    image[0 if below_red else 2, :14] = 0.9
    label_map = np.full((SIZE, SIZE), 0 if below_red else 1)
    label_map[:14] = 2 if below_red else 3
    label_map[14:17] = 255
    return image, label_map


def accuracy(forest: TextonForest, stages: str) -> float:
    """On the floor of scenes never seen, far enough from the ceiling that no patch sees it."""
    forest.stages = stages
    right = []
    for number in range(100, 108):
        image, label_map = scene(number)
        found = forest(torch.from_numpy(image)[None])[0].argmax(0).numpy()
        right.append((found == label_map)[20:34].mean())
    return float(np.mean(right))


def grown(count: int = 12, seed: int = 0, **options: Any) -> tuple[TextonForest, dict[str, Any]]:
    forest = TextonForest(3, 4, **{**SMALL, **options})
    return forest, forest.grow(scene, count, ignore_index=255, seed=seed)


@cache
def trained() -> TextonForest:
    return grown()[0]


@pytest.fixture
def forest() -> TextonForest:
    trained().stages = "all"
    return trained()


def copy_of(forest: TextonForest) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in forest.state_dict().items()}


def test_context_decides_where_texture_cannot(forest: TextonForest) -> None:
    assert 0.3 < accuracy(forest, "textons") < 0.7
    assert accuracy(forest, "regions") > 0.95
    assert accuracy(forest, "all") > 0.95


def test_facts_say_what_was_used() -> None:
    _, facts = grown()
    assert facts["images"] == facts["images_given"] == 12 and facts["tests_a_node"] == 40
    assert facts["labelled_pixels"][2] == 6 * 7 * 20 and sum(facts["training_pixels"]) == facts["textons"]["pixels"]
    assert facts["regions"]["left_out_accuracy"] > 0.9 > facts["textons"]["left_out_accuracy"]
    assert facts["prior"]["alpha"] in (0, 0.1, 0.25, 0.5, 1, 2) and facts["prior"]["classes_learned"] == 4
    assert set(facts["seconds"]) == {"reading", "textons", "regions", "all"}


def test_probabilities_are_normalised_and_never_minus_infinity(forest: TextonForest) -> None:
    for stages in ("textons", "regions", "all"):
        forest.stages = stages
        logits = forest(torch.rand(2, 3, 21, 34))
        assert logits.shape == (2, 4, 21, 34) and logits.dtype == torch.float32
        assert logits.min() >= np.log(1e-6) - 1e-3
        assert (logits.exp().sum(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (70, 33)])
@pytest.mark.parametrize("stages", ["textons", "regions", "all"])
def test_torch_form_equals_the_compiled_form(
    forest: TextonForest, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], stages: str
) -> None:
    forest.stages = stages
    forest.alpha.fill_(0.5)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    compiled = forest(image)
    monkeypatch.setattr(texton_forest, "can_compile", lambda: False)
    other = forest(image)
    assert torch.equal(other.argmax(1), compiled.argmax(1))
    assert (other.exp() - compiled.exp()).abs().max() < 1e-6


def test_blocks_and_parts_leave_no_seams(forest: TextonForest, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 75, 50, generator=torch.Generator().manual_seed(1))
    whole = forest(image)
    monkeypatch.setattr(texton_forest, "_BLOCK", 50 * 11)
    monkeypatch.setattr(texton_forest.regions, "PART", 23)
    assert torch.equal(forest(image), whole)
    monkeypatch.setattr(texton_forest, "can_compile", lambda: False)
    assert (forest(image).exp() - whole.exp()).abs().max() < 1e-6


@pytest.mark.slow
def test_one_export_answers_alike_at_all_sizes() -> None:
    forest = grown(10, trees=2, depth=3, region_trees=2, region_depth=3)[0]
    forest.alpha.fill_(0.5)
    free = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(forest.eval(), (torch.rand(1, 3, 33, 26),), dynamic_shapes={"image": free})
    exported = program.module()
    for size in ((33, 26), (50, 61), (8, 100)):
        image = torch.rand(1, 3, *size)
        assert (exported(image).exp() - forest(image).exp()).abs().max() < 1e-6


@pytest.mark.slow
def test_onnx_answers_alike(tmp_path: Path) -> None:
    forest = grown(10, trees=2, depth=3, region_trees=2, region_depth=3)[0]
    forest.alpha.fill_(0.5)
    image = torch.rand(1, 3, 33, 26)
    path = tmp_path / "forest.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of torch
        torch.onnx.export(forest.eval(), (image,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert np.abs(np.exp(logits) - forest(image).exp().numpy()).max() < 1e-6


def test_same_seed_same_arrays_with_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = grown()[0]
        image = torch.rand(1, 3, 30, 30)
        by_three = again(image)
    finally:
        torch.set_num_threads(threads)
    trained().stages = "all"
    first, second = grown()[0].state_dict(), again.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(again(image), by_three)
    other = grown(seed=1)[0].state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first if first[name].shape == other[name].shape)


def test_weights_survive_the_disk(forest: TextonForest, tmp_path: Path) -> None:
    path = save_weights(forest, tmp_path / "forest.safetensors")
    loaded = TextonForest(3, 4, **SMALL)
    assert load_weights(loaded, path) == () and loaded.is_grown
    image = torch.rand(1, 3, 25, 37)
    assert torch.equal(loaded(image), forest(image))
    # Again, into one that holds a forest of another size.
    other = grown(seed=5)[0]
    load_weights(other, path)
    assert torch.equal(other(image), forest(image))


@pytest.mark.parametrize(
    ("classes", "options"),
    [(3, {}), (4, {"region_depth": 4}), (4, {"depth": 3}), (4, {"patch": 3}), (4, {"reach": 16})],
)
def test_weights_of_other_options_are_refused(
    forest: TextonForest, tmp_path: Path, classes: int, options: dict[str, Any]
) -> None:
    path = save_weights(forest, tmp_path / "forest.safetensors")
    other = TextonForest(3, classes, **{**SMALL, **options})
    with pytest.raises(InputError):
        load_weights(other, path)
    assert not other.is_grown


def cyclic(state: dict[str, torch.Tensor]) -> None:
    state["textons.below"][1] = 0


def shared_child(state: dict[str, torch.Tensor]) -> None:
    inner = torch.nonzero(state["regions.below"][:, 0] != torch.arange(len(state["regions.below"])))[:, 0]
    state["regions.below"][inner[0]] = state["regions.below"][inner[1]]


def outside(state: dict[str, torch.Tensor]) -> None:
    state["textons.below"][0, 1] = 30_000


def other_parent(state: dict[str, torch.Tensor]) -> None:
    state["textons.parents"][1] = 1


def far_pixel(state: dict[str, torch.Tensor]) -> None:
    state["textons.splits"][0, 1] = 3


def far_channel(state: dict[str, torch.Tensor]) -> None:
    state["textons.splits"][0, 6] = 3


def far_plane(state: dict[str, torch.Tensor]) -> None:
    state["regions.splits"][0, 0] = 34


def unknown_node(state: dict[str, torch.Tensor]) -> None:
    state["bag_nodes"][0] = len(state["textons.thresholds"])


def not_a_number(state: dict[str, torch.Tensor]) -> None:
    state["textons.probs"][3, 0] = torch.nan


def short(state: dict[str, torch.Tensor]) -> None:
    state["textons.thresholds"] = state["textons.thresholds"][:-1]


def no_trees(state: dict[str, torch.Tensor]) -> None:
    state["textons.roots"] = state["textons.roots"][:0]


def prior_of_another(state: dict[str, torch.Tensor]) -> None:
    state["prior_bags"] = state["prior_bags"][:, :-1]


DAMAGES = [
    cyclic, shared_child, outside, other_parent, far_pixel, far_channel, far_plane, unknown_node, not_a_number, short,
    no_trees, prior_of_another,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_damaged_arrays_are_refused(forest: TextonForest, damage: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = copy_of(forest)
    assert TextonForest(3, 4, **SMALL).keep_own(copy_of(forest)).keys() == state.keys()
    damage(state)
    fresh = TextonForest(3, 4, **SMALL)
    with pytest.raises(InputError, match="texton forest"):
        fresh.keep_own(state)
    assert not fresh.is_grown


def test_files_of_other_models_are_left_to_the_loader() -> None:
    state = {"conv.weight": torch.zeros(3)}
    assert TextonForest(3, 3).keep_own(state) is state


def test_a_forest_that_was_not_trained_says_so(tmp_path: Path) -> None:
    fresh = TextonForest(3, 4, **SMALL)
    with pytest.raises(InputError, match="has not been trained"):
        fresh(torch.rand(1, 3, 8, 8))
    path = save_weights(fresh, tmp_path / "forest.safetensors")
    with pytest.raises(InputError, match="saved before it was trained"):
        load_weights(TextonForest(3, 4, **SMALL), path)


def test_stage_that_was_not_trained_is_refused() -> None:
    forest, facts = grown(4, stages="textons")
    assert "regions" not in facts and forest(torch.rand(1, 3, 8, 8)).shape == (1, 4, 8, 8)
    forest.stages = "regions"
    with pytest.raises(InputError, match="was trained with stages='textons' and is asked for 'regions'"):
        forest(torch.rand(1, 3, 8, 8))


def test_volumes_and_other_channels_are_refused(forest: TextonForest) -> None:
    with pytest.raises(InputError, match=r"\(1, 3, 8, 8, 8\): a texton forest labels 2-D images"):
        forest(torch.rand(1, 3, 8, 8, 8))
    with pytest.raises(InputError, match="image of 1 channels: this texton forest was built for 3"):
        forest(torch.rand(1, 1, 8, 8))
    volume = np.zeros((3, 8, 8, 8), np.float32), np.zeros((8, 8, 8), int)
    with pytest.raises(InputError, match=r"training image 0 of shape \(3, 8, 8, 8\)"):
        TextonForest(3, 3).grow(lambda _: volume, 1, ignore_index=255)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((8, 8), 255), "0 labelled pixels in 1 images"),
        (np.where(np.arange(64).reshape(8, 8) < 9, 1, 255), "9 labelled pixels in 1 images"),
        (np.full((80, 80), 2), "are of class 2: a texton forest needs two classes"),
    ],
)
def test_too_few_labels_are_refused(labels: np.ndarray, message: str) -> None:
    image = np.zeros((3, *labels.shape), np.float32)
    with pytest.raises(InputError, match=message):
        TextonForest(3, 3).grow(lambda _: (image, labels), 1, ignore_index=255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 20}, "give an odd side"),
        ({"depth": 0}, r"depth=0 of texton_forest: it must lie in 1\.\.16"),
        ({"share": 1.5}, "share=1.5"),
        ({"reach": 1000}, "reach=1000"),
        ({"cell": 32, "reach": 16}, "must not exceed reach=16"),
        ({"stages": "region"}, "did you mean 'regions'"),
        ({"colour": "hsv"}, "known: lab, raw"),
        ({"thresholds": 50}, "thresholds=50"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextonForest(3, 3, **options)
    with pytest.raises(InputError, match="2000 classes"):
        TextonForest(3, 2000)


def test_few_images_have_no_prior() -> None:
    forest, facts = grown(4)
    assert facts["prior"]["alpha"] == 0 and "4 images" in facts["prior"]["why"] and not forest.prior_bags.numel()
    assert accuracy(forest, "all") == accuracy(forest, "regions")


def test_one_grey_image_with_scribbles_suffices() -> None:
    random = np.random.default_rng(0)
    image = random.random((1, 64, 64)).astype(np.float32) * 0.5
    image[:, :, 32:] += 0.5
    label_map = np.full((64, 64), 255)
    label_map[10, 5:25], label_map[40, 40:60] = 0, 1
    forest = TextonForest(1, 2, **SMALL)
    facts = forest.grow(lambda _: (image, label_map), 1, ignore_index=255)
    assert facts["training_pixels"] == [20, 20]
    found = forest(torch.from_numpy(image)[None])[0].argmax(0)
    assert (found[:, :26] == 0).float().mean() > 0.9 and (found[:, 38:] == 1).float().mean() > 0.9


def test_a_class_without_pixels_is_never_found() -> None:
    five = TextonForest(3, 5, **SMALL)
    five.grow(scene, 10, ignore_index=255)
    assert (five(torch.rand(1, 3, 20, 20))[0, 4:].exp() <= 1e-3).all()


def test_time_is_saved_by_fewer_tests_and_pixels() -> None:
    grown(2)  # compiles
    told: list[tuple[int, int, str]] = []
    forest = TextonForest(3, 4, **{**SMALL, "tests": 5000, "pool": 3000})
    facts = forest.grow(scene, 12, ignore_index=255, seconds=0.5, on_progress=lambda *each: told.append(each))
    assert facts["tests_a_node"] < 5000 and forest.is_grown and facts["seconds"]["all"] < 20
    assert all(done <= total for done, total, _ in told)
    assert [done for done, *_ in told] == list(range(1, len(told) + 1))


def test_quotas_favour_rare_classes_and_add_up() -> None:
    quotas = class_quotas(np.array([10_000, 100, 0, 4]), 300)
    assert quotas.tolist()[2:] == [0, 4] and 290 <= quotas.sum() <= 300
    assert quotas[0] / 10_000 < quotas[1] / 100
    seen = [Seen(0, np.arange(50), np.repeat([0, 1], [40, 10]), np.ones(2, bool), (5, 10))]
    sample = draw_pixels(seen, 2, 1000, 0)
    assert sample.drawn().tolist() == sample.counts.tolist() == [40, 10]
    assert draw_pixels(seen, 2, 20, 0).stands_for().sum() == pytest.approx(50)


def test_the_grid_is_left_where_few_pixels_are_labelled() -> None:
    label_map = np.zeros((40, 40), int)
    pixels, labels = grid_pixels(label_map, 4, 255)
    assert len(labels) == 100 and pixels[:2].tolist() == [82, 86]
    label_map[:] = 255
    label_map[3, :30] = 1
    assert len(grid_pixels(label_map, 4, 255)[0]) == 30
