"""The pixel forest: it learns, both of its forms agree, and what it cannot do it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from perpixel.classical import PixelForest
from perpixel.classical.pixel_sampling import draw_pixels, features_at
from perpixel.classical.tiles import tile_features
from perpixel.errors import InputError

Load = Callable[[int], tuple[np.ndarray, np.ndarray]]
SMALL: dict[str, Any] = {"sigmas": (0.7, 1.6), "trees": 10, "max_pixels": 1500}


def scene(number: int, shape: tuple[int, ...] = (40, 56), channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Class 0 is dark, 1 bright, 2 bright with stripes that only a gradient or a Hessian tells from 1."""
    random = np.random.default_rng(number)
    label_map = np.zeros(shape, np.int64)
    label_map[..., shape[-1] // 3 :] = 1
    label_map[..., 2 * shape[-1] // 3 :] = 2
    image = np.where(label_map == 0, 0.2, 0.7) + 0.05 * random.normal(size=shape)
    stripes = 0.25 * (np.arange(shape[-1]) // 2 % 2 * 2 - 1)
    image = np.where(label_map == 2, image + stripes, image)
    return np.repeat(image[None], channels, 0).astype(np.float32), label_map


def grown(load: Load = scene, count: int = 2, *, channels: int = 1, classes: int = 3, **options: Any) -> PixelForest:
    forest = PixelForest(channels, classes, **{**SMALL, **options})
    forest.grow(load, count, ignore_index=255)
    return forest


@pytest.fixture(scope="module")
def forest() -> PixelForest:
    return grown()


def batch(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize(("shape", "channels"), [((40, 56), 1), ((40, 56), 3), ((10, 14, 36), 1)])
def test_learns_what_it_was_shown(shape: tuple[int, ...], channels: int) -> None:
    model = grown(lambda number: scene(number, shape, channels), channels=channels)
    image, label_map = scene(7, shape, channels)
    logits = model(batch(image))
    assert logits.shape == (1, 3, *shape) and logits.dtype == torch.float32
    assert (logits[0].argmax(0).numpy() == label_map).mean() > 0.93
    probs = logits.exp().sum(1)
    assert torch.allclose(probs, torch.ones_like(probs), atol=1e-5)


def test_is_scikit_learn_s_forest_over_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[RandomForestClassifier] = []
    import perpixel.classical.pixel_forest as module

    original = module.from_sklearn
    monkeypatch.setattr(module, "from_sklearn", lambda forest, k: fitted.append(forest) or original(forest, k))
    model = grown()
    image, _ = scene(5)
    features = tile_features(image, ((0, 40), (0, 56)), model.bank)
    wanted = fitted[0].predict_proba(features.T)
    found = model(batch(image))[0].exp().flatten(1).T.numpy()
    np.testing.assert_allclose(found, np.maximum(wanted, 1e-6), atol=1e-6)
    assert (fitted[0].n_estimators, len(model.roots)) == (10, 10)


@pytest.mark.parametrize("shape", [(70, 90), (9, 12, 70)])
def test_torch_answers_as_the_compiled_form(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = grown(lambda number: scene(number, shape))
    image = batch(scene(3, shape)[0], scene(4, shape)[0])
    compiled = model(image)
    monkeypatch.setattr(model, "_may_compile", lambda image: False)
    by_torch = model(image)
    monkeypatch.setattr("perpixel.classical.pixel_forest._is_traced", lambda: True)
    in_one_piece = model(image)
    assert torch.equal(by_torch, in_one_piece)
    if len(shape) == 2:
        assert torch.equal(compiled, by_torch)
    else:  # the arc cosine may round another way at the one or other voxel
        assert (compiled != by_torch).float().mean() < 1e-3


def test_threads_and_tiles_change_nothing(forest: PixelForest, monkeypatch: pytest.MonkeyPatch) -> None:
    image = batch(scene(3, (100, 130))[0])
    expected = forest(image)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr("perpixel.classical.tiles._TILES", {2: (16, 50)})
        assert torch.equal(forest(image), expected)
        again = grown()
    finally:
        torch.set_num_threads(threads)
    for name, value in forest.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_flipped_image_has_a_flipped_answer() -> None:
    """Features neither know left from right, nor up from down; borders are mirrored."""
    model = grown(features="smoothing+gradient+laplacian+hessian+structure")
    image = batch(np.round(scene(2)[0], 2))  # no threshold lies within a rounding error of a feature
    for axis in (2, 3):
        same = model(image.flip(axis)).flip(axis).argmax(1) == model(image).argmax(1)
        assert same.float().mean() > 0.999


def test_facts(forest: PixelForest) -> None:
    seen: list[tuple[int, int, str]] = []
    model = PixelForest(1, 4, **SMALL)
    facts = model.grow(scene, 2, ignore_index=255, on_progress=lambda *what: seen.append(what))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["images"] == 2 and facts["pixels"] == 1500 == sum(facts["pixels_of_class"])
    assert facts["pixels_of_class"][3] == 0 and min(facts["pixels_of_class"][:3]) > 300
    assert facts["trees"] == 10 and facts["nodes"] == len(model.child) > 100 and facts["features"] == 16
    assert 0.8 < facts["out_of_bag_accuracy"] <= 1
    assert seen == [(1, 2, "images"), (2, 2, "images"), (10, 10, "trees")]
    assert model.feature_names(2)[:2] == ["channel 0: smoothing at sigma 0.7", "channel 0: laplacian at sigma 0.7"]


def test_a_few_strokes_are_enough() -> None:
    def strokes(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, label_map = scene(number)
        few = np.full_like(label_map, 255)
        for column in (6, 25, 45):
            few[10:16, column] = label_map[10:16, column]
        return image, few

    model = PixelForest(1, 3, **SMALL)
    facts = model.grow(strokes, 1, ignore_index=255)
    assert facts["pixels"] == 18 and facts["pixels_of_class"] == [6, 6, 6]
    image, label_map = scene(0)
    assert (model(batch(image))[0].argmax(0).numpy() == label_map).mean() > 0.75


def test_seconds_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def load(number: int) -> tuple[np.ndarray, np.ndarray]:
        read.append(number)
        return scene(number)

    model = PixelForest(1, 3, **{**SMALL, "trees": 500})
    facts = model.grow(load, 50, ignore_index=255, seconds=0.0)
    assert read != [0] and len(read) == facts["images"] == 1 and facts["images_given"] == 50
    assert facts["trees"] == 10 and model.is_grown


def test_balanced_weighs_rare_classes() -> None:
    def rare(number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(number)
        label_map = (random.random((50, 50)) < 0.05).astype(np.int64)
        return (label_map * 0.05 + random.normal(scale=0.05, size=(50, 50)))[None].astype(np.float32), label_map

    found = {}
    for balanced in (False, True):
        model = grown(rare, 3, classes=2, sigmas=(0.3,), min_leaf=30, balanced=balanced)
        found[balanced] = float((model(batch(rare(9)[0])).argmax(1) == 1).float().mean())
    assert found[True] > 3 * found[False]


def test_pixels_are_shared_out_fairly() -> None:
    label_map = np.zeros((100, 100), np.int64)
    label_map[0, :30] = 1
    label_map[1, :5] = 2
    label_map[2] = 255
    chosen = draw_pixels(label_map, 1200, 255, np.random.default_rng(0))
    assert len(chosen) == 1200 == len(np.unique(chosen))
    counts = np.bincount(label_map.reshape(-1)[chosen], minlength=256)
    assert counts[1] == 30 and counts[2] == 5 and counts[255] == 0  # a quarter of 1200 is 100 a class: all of these
    assert (draw_pixels(label_map, 10**6, 255, np.random.default_rng(0)) == np.flatnonzero(label_map != 255)).all()


def test_features_of_chosen_pixels() -> None:
    model, (image, _) = PixelForest(2, 2, **SMALL), scene(1, (90, 70), 2)
    chosen = np.array([0, 5, 69, 70, 4444, 90 * 70 - 1])
    whole = tile_features(image, ((0, 90), (0, 70)), model.bank)
    np.testing.assert_array_equal(features_at(image, chosen, model.bank), whole[:, chosen].T)


def test_saved_arrays_come_back(forest: PixelForest) -> None:
    state = {name: value.clone() for name, value in forest.state_dict().items()}
    assert all(value.is_contiguous() for value in state.values())
    for load in ("keep_own", "load_state_dict"):
        copy = PixelForest(1, 3, **SMALL)
        assert not copy.is_grown
        getattr(copy, load)(state)
        if load == "keep_own":
            assert {n: v.shape for n, v in copy.state_dict().items()} == {n: v.shape for n, v in state.items()}
            copy.load_state_dict(state)
        image = batch(scene(8)[0])
        assert torch.equal(copy(image), forest(image))


def test_damaged_arrays_are_refused(forest: PixelForest) -> None:
    for name, value, match in (
        ("child", 0, "children are not where"),
        ("feature", 99, r"feature outside 0..15"),
        ("dims", 7, "images of 7 axes"),
    ):
        state = {key: each.clone() for key, each in forest.state_dict().items()}
        state[name][0] = value
        with pytest.raises(InputError, match=match):
            PixelForest(1, 3, **SMALL).keep_own(state)
        with pytest.raises(InputError, match=match):
            PixelForest(1, 3, **SMALL).load_state_dict(state)
    with pytest.raises(InputError, match="saved before it was trained"):
        PixelForest(1, 3, **SMALL).keep_own(PixelForest(1, 3, **SMALL).state_dict())
    with pytest.raises(InputError, match="3 classes, not of 5"):
        PixelForest(1, 5, **SMALL).keep_own(forest.state_dict())
    other = {"weight": torch.zeros(1)}
    assert PixelForest(1, 3, **SMALL).keep_own(other) is other


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trees": 0}, r"option trees=0 of pixel_forest: it must be 1 or more"),
        ({"trees": 20_000}, "10000 or less"),
        ({"max_depth": 0}, "option max_depth=0"),
        ({"min_leaf": 0}, "option min_leaf=0"),
        ({"max_pixels": 5}, "option max_pixels=5"),
        ({"features": "smoothing+sobel"}, "unknown feature 'sobel'"),
        ({"sigmas": (50.0,)}, "sigmas holds 50"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        PixelForest(1, 2, **options)


def test_too_many_channels() -> None:
    with pytest.raises(InputError, match="1000 channels have 50000 features: choose fewer"):
        PixelForest(1000, 2)


def labelled(**values: int) -> Load:
    """An image of which a few pixels are labelled: row=class."""

    def load(number: int) -> tuple[np.ndarray, np.ndarray]:
        image, label_map = scene(number)
        few = np.full_like(label_map, 255)
        for row, value in values.items():
            few[int(row[1:]), :4] = value
        return image, few

    return load


@pytest.mark.parametrize(
    ("load", "match"),
    [
        (labelled(), "labelled pixels of 2 images show no class at all"),
        (labelled(r1=2, r2=2), "show class 2 only: a forest tells classes apart"),
        (lambda n: (scene(n)[0], np.where(np.arange(56) < 1, n, 255) * np.ones((40, 1), int)), None),
        (
            lambda n: (scene(n)[0][:, :-1], scene(n)[1]),
            r"image \d has shape \(1, 39, 56\) and its label map \(40, 56\)",
        ),
        (lambda n: (scene(n)[0], scene(n)[1] + 1), r"label map \d holds 3, outside 0..2"),
        (lambda n: (scene(n)[0] * np.nan, scene(n)[1]), r"image \d holds NaN"),
        (lambda n: (scene(n, channels=3)[0], scene(n)[1]), r"image \d has 3 channels: .* built for 1"),
        (lambda n: scene(n, (40, 56) if n else (8, 9, 10)), "spatial axes and others"),
    ],
)
def test_labels_that_teach_nothing(load: Load, match: str | None) -> None:
    if match is None:  # each image shows one class, both together two
        assert grown(load).is_grown
        return
    with pytest.raises(InputError, match=match):
        grown(load)


def test_too_few_pixels() -> None:
    with pytest.raises(InputError, match="8 pixels are labelled in 1 images, fewer than 10"):
        grown(labelled(r1=0, r2=1), 1)


def test_what_it_cannot_label(forest: PixelForest) -> None:
    with pytest.raises(InputError, match="has not been trained"):
        PixelForest(1, 3)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="image of 3 channels: this pixel forest was built for 1"):
        forest(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"has 3 spatial axes: .* trained on images with 2"):
        forest(torch.zeros(1, 1, 8, 8, 8))


def test_odd_images(forest: PixelForest) -> None:
    for image in (torch.zeros(1, 1, 1, 1), torch.full((1, 1, 5, 3), torch.nan), torch.full((2, 1, 4, 9), 1e30)):
        logits = forest(image)
        assert logits.shape[2:] == image.shape[2:] and torch.isfinite(logits).all()
    strided = torch.rand(1, 20, 30, 1).permute(0, 3, 1, 2)
    assert torch.equal(forest(strided), forest(strided.contiguous()))
    assert torch.equal(forest(strided.double()), forest(strided))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_gives_the_same_labels(tmp_path: Path) -> None:
    import onnxruntime

    model = grown(sigmas=(0.7, 1.6), trees=5, max_depth=8).eval()
    path = tmp_path / "forest.onnx"
    shapes = {"image": {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(
        model, (torch.rand(1, 1, 48, 56),), path, input_names=["image"], output_names=["logits"],
        dynamo=True, dynamic_shapes=shapes, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((48, 56), (33, 71)):
        image = batch(scene(6, shape)[0])
        (found,) = session.run(None, {"image": image.numpy()})
        expected = model(image).numpy()
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
        np.testing.assert_allclose(found, expected, atol=1e-5)
