"""Slabs against whole volumes, other grids, the predictor's door, and memory."""

from __future__ import annotations

import gc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.images import normalise_mr, resample_probs
from perpixel.inference import VolumePredictor, prepare_volume, sliding_window
from perpixel.inference.regrid import Regrid
from perpixel.inference.sliding import _importance, window_starts
from perpixel.labels import ClassInfo, ClassTable

CLASSES = ClassTable(tuple(ClassInfo(name, (i, i, i), (i,)) for i, name in enumerate(("background", "a", "b"))))


def net(num_classes: int = 3, channels: int = 1, kernel: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(channels, num_classes, kernel, padding=kernel // 2).requires_grad_(False)


def scan(*shape: int, channels: int = 1) -> Tensor:
    return torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(1))


def predictor(model: nn.Module | None = None, **settings: object) -> VolumePredictor:
    values = {"classes": CLASSES, "channels": 1, "tile": (8, 8, 8), **settings}
    return VolumePredictor(model or net(), **values)  # type: ignore[arg-type]


def blended(model: nn.Module, image: Tensor, tile: tuple[int, int, int], overlap: float) -> np.ndarray:
    """(K, D, H, W): the plain form, with arrays of the whole volume."""
    size = image.shape[2:]
    window = [min(each) for each in zip(tile, size)]
    total, weights = torch.zeros(3, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    a, b, c = (_importance(side).double() for side in window)
    weight = a[:, None, None] * b[:, None] * c
    for place in product(*(window_starts(side, own, overlap) for side, own in zip(size, window))):
        part = tuple(slice(start, start + side) for start, side in zip(place, window))
        total[(slice(None), *part)] += weight * model(image[(..., *part)])[0].softmax(0)
        weights[part] += weight
    return (total / weights).numpy()


@pytest.mark.parametrize("overlap", [0, 0.5])
@pytest.mark.parametrize("size", [(1, 1, 1), (40, 9, 11), (9, 40, 11), (7, 13, 50), (8, 8, 8), (3, 20, 5)])
def test_slabs_give_what_whole_volume_blending_gives(size: tuple[int, int, int], overlap: float) -> None:
    model, image = net(), scan(*size)
    result = sliding_window(
        model,
        image,
        num_classes=3,
        tile=(8, 6, 7),
        overlap=overlap,
        probs=True,
        uncertainty=True,
        confidence=True,
        batch=3,
    )
    expected = blended(model, image, (8, 6, 7), overlap)
    assert result.probs is not None and result.uncertainty is not None and result.confidence is not None
    np.testing.assert_allclose(result.probs, expected, atol=1e-6)
    np.testing.assert_array_equal(result.label_map, expected.argmax(0))
    np.testing.assert_allclose(result.confidence, expected.max(0), atol=1e-6)
    np.testing.assert_allclose(result.uncertainty, -(expected * np.log(expected)).sum(0) / np.log(3), atol=1e-5)
    assert result.label_map.dtype == np.uint8 and result.label_map.flags.c_contiguous


def test_the_net_sees_windows_in_their_own_orientation() -> None:
    seen = []

    def run(windows: Tensor) -> Tensor:
        seen.append(tuple(windows.shape))
        return windows[:, :1].repeat(1, 2, 1, 1, 1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1)

    image, told = scan(6, 9, 30), []
    result = sliding_window(
        run, image, num_classes=2, tile=(6, 8, 7), batch=2, on_tile=lambda *at: told.append(at), probs=True
    )
    assert set(seen) == {(2, 1, 6, 8, 7)}
    np.testing.assert_array_equal(result.label_map, (image[0, 0] < 0).numpy())
    assert told[-1][0] == told[-1][1] == 2 * len(window_starts(30, 7, 0.25))
    assert result.probs is not None and result.probs.shape == (2, 6, 9, 30)


def test_model_uncertainty_follows_the_other_axes() -> None:
    def run(windows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(windows), 2, *windows.shape[2:]), windows[:, 0].clamp(0, 1)

    image = scan(5, 6, 40)
    result = sliding_window(run, image, num_classes=2, tile=(4, 4, 4), overlap=0, batch=1, model_uncertainty=True)
    assert result.model_uncertainty is not None
    np.testing.assert_allclose(result.model_uncertainty, 1 - image[0, 0].clamp(0, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 10, 60), (60, 10, 9)])
def test_memory_holds_a_slab_not_the_volume(shape: tuple[int, int, int]) -> None:
    model, held = net(6, kernel=1), {}
    for length in (16, 160):
        image = torch.zeros(1, 1, *(length if side == 60 else side for side in shape))
        own = image.untyped_storage().data_ptr()
        sizes: list[int] = []

        calls = 0

        def run(windows: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls % 9 == 3:  # looking at all objects is slow
                storages = {
                    item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
                    for item in gc.get_objects()
                    if type(item) is Tensor
                }
                sizes.append(sum(size for place, size in storages.items() if place != own))  # noqa: B023
            return model(windows)

        sliding_window(run, image, num_classes=6, tile=(9, 10, 8) if shape[2] == 60 else (8, 10, 9), batch=1)
        held[length] = max(sizes)
    slab = 6 * 8 * 9 * 10 * 4
    assert slab < held[160] < held[16] + slab / 4


@pytest.mark.parametrize("coarse", [None, 0, 2])
@pytest.mark.parametrize("target", [(11, 5, 33), (40, 8, 12), (9, 9, 20), (1, 20, 7)])
def test_probabilities_reach_another_grid_slab_by_slab(target: tuple[int, int, int], coarse: int | None) -> None:
    model, image = net(), scan(9, 9, 20)
    plain = sliding_window(model, image, num_classes=3, tile=(6, 6, 6), probs=True)
    result = sliding_window(
        model, image, num_classes=3, tile=(6, 6, 6), probs=True, confidence=True, onto=Regrid(target, coarse)
    )
    assert plain.probs is not None and result.probs is not None and result.confidence is not None
    expected = resample_probs(plain.probs, target, coarse_axis=coarse)
    np.testing.assert_allclose(result.probs, expected, atol=1e-5)
    np.testing.assert_array_equal(result.label_map, result.probs.argmax(0))
    np.testing.assert_allclose(result.confidence, result.probs.max(0), atol=1e-6)


def test_the_predictor_is_windows_of_the_prepared_volume() -> None:
    model, raw = net(), (100 + 20 * scan(12, 10, 30)[0]).numpy().astype(np.int16)
    seen = []
    prediction = predictor(model, normalise=normalise_mr).predict(
        raw, probs=True, confidence=True, uncertainty=True, on_tile=lambda *at: seen.append(at)
    )
    values = torch.from_numpy(prepare_volume(raw, (1, 1, 1), normalise=normalise_mr))[None]
    assert values.mean().abs() < 1e-4
    expected = blended(model, values, (8, 8, 8), 0.5)
    assert prediction.probs is not None and prediction.confidence is not None
    np.testing.assert_allclose(prediction.probs, expected, atol=1e-5)
    np.testing.assert_array_equal(prediction.label_map, expected.argmax(0))
    assert prediction.label_map.dtype == np.uint8 and prediction.uncertainty is not None
    assert prediction.colour().shape == (12, 10, 30, 3) and seen[-1][0] == seen[-1][1]


def test_the_training_spacing_is_reached_and_left_again() -> None:
    model, raw = net(kernel=1), scan(10, 12, 14)[0].numpy()
    there = predictor(model, spacing_mm=(1.0, 1.0, 1.0), tile=(64, 64, 64))
    prediction = there.predict(raw, spacing_mm=(2.0, 1.0, 0.5), probs=True)
    values = prepare_volume(raw, (2.0, 1.0, 0.5), target_mm=(1.0, 1.0, 1.0))
    assert values.shape == (1, 20, 12, 7)
    chances = model(torch.from_numpy(values)[None])[0].softmax(0).numpy()
    assert prediction.probs is not None and prediction.label_map.shape == (10, 12, 14)
    np.testing.assert_allclose(prediction.probs, resample_probs(chances, (10, 12, 14)), atol=1e-5)
    same = there.predict(raw, spacing_mm=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(same.label_map, model(torch.from_numpy(raw)[None])[0].argmax(0).numpy())


def test_a_volume_smaller_than_a_window_lies_among_zeros() -> None:
    seen = []

    class Sees(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(image.clone())
            return torch.cat([image, -image, image * 0], 1)

    raw = scan(3, 8, 5)[0].numpy() + 10
    prediction = predictor(Sees()).predict(raw[0])
    assert [tuple(each.shape) for each in seen] == [(1, 1, 8, 8, 8)]
    np.testing.assert_array_equal(seen[0][0, 0, 2:5, :, 1:6], raw[0])
    assert (seen[0] != 0).sum() == raw.size
    assert prediction.label_map.shape == (3, 8, 5) and (prediction.label_map == 0).all()


def test_mirror_images_are_averaged() -> None:
    model, raw = net(), scan(6, 7, 8)[0].numpy()
    there = predictor(model, mirror=(True, False, True), tile=(6, 7, 8))
    prediction = there.predict(raw, tta=True, probs=True)
    image = torch.from_numpy(raw)[None]
    ways = [(), (2,), (4,), (2, 4)]
    expected = sum(model(image.flip(axes)).flip(axes).softmax(1) for axes in ways) / 4  # type: ignore[union-attr]
    assert prediction.probs is not None
    np.testing.assert_allclose(prediction.probs, expected[0].numpy(), atol=1e-6)  # type: ignore[index]
    assert len(predictor(mirror=(True,) * 3).mirrors()) == 7
    mirrored = there.predict(np.ascontiguousarray(np.flip(raw, 1)), tta=True, probs=True)
    assert mirrored.probs is not None
    np.testing.assert_allclose(np.flip(mirrored.probs, 1), prediction.probs, atol=1e-6)


def test_one_logit_and_temperature() -> None:
    table = ClassTable(CLASSES.classes[:1])
    model, raw = net(1), scan(6, 6, 6)[0].numpy()
    prediction = predictor(model, classes=table, mirror=(True,) * 3, temperature=2.0).predict(raw, probs=True)
    assert prediction.probs is not None
    expected = (model(nn.functional.pad(torch.from_numpy(raw)[None], (1,) * 6)) / 2).sigmoid()[0, :, 1:7, 1:7, 1:7]
    np.testing.assert_allclose(prediction.probs, expected.numpy(), atol=1e-6)


def test_bf16_is_close_and_used() -> None:
    raw = scan(8, 8, 20)[0].numpy()
    plain = predictor(mirror=(True,) * 3).predict(raw, probs=True, tta=True)
    short = predictor(mirror=(True,) * 3, precision="bf16").predict(raw, probs=True, tta=True)
    assert plain.probs is not None and short.probs is not None
    np.testing.assert_allclose(short.probs, plain.probs, atol=0.02)
    assert np.abs(short.probs - plain.probs).max() > 1e-5


def test_files_carry_their_spacing(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(size=(12, 10, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    there = predictor(spacing_mm=(1.0, 1.0, 1.0))
    array, spacing = there.as_volume(tmp_path / "scan.nii.gz")
    assert spacing == pytest.approx((2.0, 0.5, 0.5)) and array.shape == (1, 6, 10, 12)
    by_file = there.predict(tmp_path / "scan.nii.gz").label_map
    np.testing.assert_array_equal(by_file, there.predict(array, spacing_mm=(2.0, 0.5, 0.5)).label_map)


def test_errors() -> None:
    there = predictor()
    with pytest.raises(InputError, match=r"volume: shape \(4, 4\), dtype float32: give numbers of shape"):
        there.predict(np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="2 channels, but the model was trained on 1"):
        there.predict(np.zeros((2, 4, 4, 4), np.float32))
    broken = np.zeros((4, 4, 4), np.float32)
    broken[1, 2, 3], broken[0, 0, 0] = np.nan, np.inf
    with pytest.raises(InputError, match="volume: 2 of 64 voxels are NaN or infinite"):
        there.predict(broken)
    with pytest.raises(InputError, match="trained without them: leave it out"):
        there.predict(np.zeros((4, 4, 4), np.float32), tta=True)
    with pytest.raises(InputError, match=r"no voxel size, but the model was trained at \(1, 1, 2\) mm"):
        predictor(spacing_mm=(1, 1, 2)).predict(np.zeros((4, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"tile is \(8, 8\): give \(depth, height, width\)"):
        sliding_window(net(), scan(4, 4, 4), num_classes=3, tile=(8, 8))
    with pytest.raises(InputError, match=r"give one image with pixels, \(1, C, H, W\) or \(1, C, D, H, W\)"):
        sliding_window(net(), scan(4, 4, 4)[0, 0], num_classes=3, tile=(8, 8, 8))
    with pytest.raises(InputError, match=r"logits \(1, 3, 4, 4, 4\) for windows that need \(1, 2, 4, 4, 4\)"):
        sliding_window(net(), scan(4, 4, 4), num_classes=2, tile=(8, 8, 8))
