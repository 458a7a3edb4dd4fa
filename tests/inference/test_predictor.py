"""Model + image -> label map: any size, any source of pixels, whole or tiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig, find_bundle, load_bundle, save_bundle
from perpixel.inference.files import predict_files, result_names
from perpixel.inference.load import load
from perpixel.inference.predictor import Predictor, mirror_to
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import create_model

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))
CONFIG = BundleConfig(
    model="unet",
    options={"width": 2, "depth": 2},
    channels=1,
    classes=CLASSES,
    normalisation=Normalisation((0.0,), (255.0,), (0.5,), (0.5,)),
    scale=1.0,
    tile=(64, 64),
    precision="fp32",
    training={"seed": 0},
    data={"name": "x", "num_images": {"train": 1}, "digest": "0" * 64},
)


class Threshold(nn.Module):
    """Bright where the normalised value is above zero."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([-image, image], 1) * 10


def picture(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width), np.uint8)
    image[:, width // 2 :] = 255
    return image


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (37, 53), (150, 130)])
def test_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    image = picture(*size)
    prediction = Predictor(Threshold(), CONFIG).predict(image, probs=True, uncertainty=True)
    assert np.array_equal(prediction.label_map, (image > 0).astype(np.uint8))
    assert prediction.label_map.dtype == np.uint8
    assert prediction.probs is not None and prediction.probs.shape == (2, *size)
    assert np.allclose(prediction.probs.sum(0), 1, atol=1e-5)
    assert prediction.uncertainty is not None and prediction.uncertainty.shape == size


def test_working_scale_comes_back_to_full_size() -> None:
    prediction = Predictor(Threshold(), replace(CONFIG, scale=0.5)).predict(picture(41, 40))
    assert prediction.label_map.shape == (41, 40)
    assert (prediction.label_map[:, :18] == 0).all() and (prediction.label_map[:, 22:] == 1).all()


def test_tiled_equals_whole_for_a_local_net() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 170), dtype=np.uint8)
    tiled = Predictor(Threshold(), CONFIG).predict(image).label_map
    whole = Predictor(Threshold(), replace(CONFIG, tile=(512, 512))).predict(image).label_map
    assert np.array_equal(tiled, whole)


def test_channels_are_matched_where_nothing_is_lost() -> None:
    grey = picture(20, 20)
    predictor = Predictor(Threshold(), CONFIG)
    want = predictor.predict(grey).label_map
    assert np.array_equal(predictor.predict(np.repeat(grey[..., None], 3, axis=2)).label_map, want)
    colour = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"image: 3 channels, but the model was trained on 1: give images like"):
        predictor.predict(colour)


def test_not_an_image() -> None:
    with pytest.raises(InputError, match=r"image: shape \(2, 2, 2, 2\), dtype float64: give numbers of shape"):
        Predictor(Threshold(), CONFIG).predict(np.zeros((2, 2, 2, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    image = np.zeros((4, 5), np.float32)
    image[1, 2] = value
    with pytest.raises(InputError, match=r"image: 1 of 20 values are NaN or infinite: replace them by numbers"):
        Predictor(Threshold(), CONFIG).predict(image)


def test_tta_of_a_symmetric_net_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 255, (30, 31), dtype=np.uint8)
    predictor = Predictor(Threshold(), CONFIG)
    assert np.array_equal(predictor.predict(image, tta=True).label_map, predictor.predict(image).label_map)


class Ramp(nn.Module):
    """Class 1 towards the right and the bottom, more to the right."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        right, down = torch.linspace(-2, 2, width)[None, :], torch.linspace(-1, 1, height)[:, None]
        second = (right + down).expand(image.shape[0], 1, height, width)
        return torch.cat([-second, second], 1)


class OneLogit(nn.Module):
    """The only class where the normalised value is above zero."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * 3


def test_tta_of_one_logit_is_the_mean_of_its_sigmoids() -> None:
    config = replace(CONFIG, classes=ClassTable((ClassInfo("bright", (250, 10, 20), (1,)),)))
    image = np.random.default_rng(0).integers(0, 255, (20, 21), dtype=np.uint8)
    plain, averaged = (Predictor(OneLogit(), config).predict(image, tta=tta, probs=True) for tta in (False, True))
    assert averaged.probs is not None and plain.probs is not None
    assert np.allclose(averaged.probs, plain.probs, atol=1e-6)
    assert np.array_equal(averaged.label_map, plain.label_map) and 0 < plain.label_map.mean() < 1


@pytest.mark.parametrize("mirrors", [["horizontal"], ["vertical"], ["horizontal", "vertical"]])
def test_tta_averages_over_the_mirrors_of_training(mirrors: list[str]) -> None:
    predictor = Predictor(Ramp(), replace(CONFIG, training={"mirrors": mirrors}))
    probs = predictor.predict(picture(20, 20), tta=True, probs=True).probs
    assert probs is not None
    for axis, way in ((2, "horizontal"), (1, "vertical")):
        assert np.allclose(probs, np.flip(probs, axis), atol=1e-6) == (way in mirrors)


def test_tta_without_mirrors_in_training_is_refused() -> None:
    with pytest.raises(InputError, match="averaging over mirror images would make this model worse"):
        Predictor(Ramp(), replace(CONFIG, training={"mirrors": []})).predict(picture(8, 8), tta=True)


def test_valid_padding_is_mirrored_away() -> None:
    torch.manual_seed(0)
    model = create_model("unet_valid", in_channels=1, num_classes=2, width=2)
    prediction = Predictor(model, replace(CONFIG, model="unet_valid")).predict(picture(50, 33))
    assert prediction.label_map.shape == (50, 33)


def test_mirror_to_by_hand() -> None:
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert mirror_to(row, (1, 9), 0)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert mirror_to(row, (5, 7), 2)[0, 0, 0].tolist() == [3, 2, 1, 2, 3, 2, 1]


def bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("unet", in_channels=1, num_classes=2, width=2, depth=2)
    return save_bundle(folder, model=model, config=CONFIG, metrics={}, card="card")


def test_bundle_round_trip(tmp_path: Path) -> None:
    saved = bundle(tmp_path / "b")
    model, config = load_bundle(saved)
    assert config == replace(CONFIG)
    image = picture(30, 30)
    assert np.array_equal(
        load(saved, device="cpu").predict(image).label_map, Predictor(model, config).predict(image).label_map
    )


def test_a_damaged_bundle_says_what_is_wrong(tmp_path: Path) -> None:
    saved = bundle(tmp_path / "b")
    (saved / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load(saved)
    (saved / "config.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"config\.json: not a bundle's config \(KeyError\('model'\)\)"):
        load(saved)
    with pytest.raises(InputError, match=r"nowhere: no such folder: give a run or a bundle"):
        find_bundle(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: neither a run nor a bundle"):
        find_bundle(tmp_path / "empty")


def write_images(folder: Path, count: int = 3) -> list[Path]:
    return [write_png(folder / f"{i}.png", picture(20, 24 + i)) for i in range(count)]


def test_files_are_written_skipped_and_resumed(tmp_path: Path) -> None:
    images = write_images(tmp_path / "in")
    predictor, out = Predictor(Threshold(), CONFIG), tmp_path / "out"
    assert predict_files(predictor, images, out, probs=True) == (["0", "1", "2"], [])
    label_map = Image.open(out / "1.png")
    assert label_map.mode == "P" and label_map.size == (25, 20)
    assert label_map.getpalette()[3:6] == [250, 10, 20]  # type: ignore[index]
    assert np.load(out / "probs" / "1.npy").shape == (2, 20, 25)
    (out / "1.png").unlink()
    assert predict_files(predictor, images, out, probs=True) == (["1"], ["0", "2"])


def test_results_of_another_model_are_not_taken_for_its_own(tmp_path: Path) -> None:
    images = write_images(tmp_path / "in")
    out = tmp_path / "out"
    predict_files(Predictor(Threshold(), CONFIG), images, out)
    other = Predictor(Threshold(), replace(CONFIG, scale=0.5))
    with pytest.raises(InputError, match=r"out: holds predictions of another model"):
        predict_files(other, images, out)
    assert predict_files(other, images, out, overwrite=True)[0] == ["0", "1", "2"]


def test_names(tmp_path: Path) -> None:
    a, b = write_images(tmp_path / "a", 1)[0], write_images(tmp_path / "b", 1)[0]
    assert result_names([a, b]) == ["a/0", "b/0"]
    twin = a.with_suffix(".bmp")
    twin.write_bytes(a.read_bytes())
    with pytest.raises(InputError, match=r"0\.png and .*0\.bmp: both would be written to 0\.png"):
        result_names([a, twin])
    with pytest.raises(InputError, match=r"its label map would be written over it"):
        predict_files(Predictor(Threshold(), CONFIG), [a], a.parent)
