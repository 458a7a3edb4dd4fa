"""The search finds a CRF that helps where there is one, and says so where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perpixel.data import Dataset, open_dataset
from perpixel.engine import tune_crf as module
from perpixel.engine.tune_crf import tune_crf
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.inference.load import load
from perpixel.inference.predictor import Prediction, Predictor
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import create_model

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))


class Stub(Predictor):
    """Answers with the truth, flipped at random or not at all."""

    wrong = 0.25

    def predict(self, image: np.ndarray, **way: object) -> Prediction:  # type: ignore[override]
        truth = image[..., 0] > 127
        flipped = np.random.default_rng(int(image.sum())).random(truth.shape) < self.wrong
        chance = np.where(truth ^ flipped, 0.7, 0.3).astype(np.float32)
        probs = np.stack([1 - chance, chance])
        return Prediction(probs.argmax(0).astype(np.uint8), CLASSES, probs=probs)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    root = tmp_path / "data"
    for number in range(6):
        random = np.random.default_rng(number)
        image = np.full((24, 30), 80, np.uint8)
        image[:, random.integers(8, 22) :] = 190
        image = image + random.integers(0, 6, image.shape).astype(np.uint8)
        write_png(root / "val" / "images" / f"{number}.png", image)
        write_png(root / "val" / "masks" / f"{number}.png", (image > 127).astype(np.uint8))
    write_json(root / "classes.json", {"classes": ["dark", "bright"], "values": {"0": "dark", "1": "bright"}})
    return open_dataset(root)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = BundleConfig(
        model="unet", options={"width": 2}, channels=1, classes=CLASSES,
        normalisation=Normalisation((0.0,), (255.0,), (0.5,), (0.5,)), scale=1.0, tile=(64, 64), precision="fp32",
    )  # fmt: skip
    model = create_model("unet", in_channels=1, num_classes=2, width=2)
    return save_bundle(tmp_path / "bundle", model=model, config=config, metrics={"miou": 0.5}, card="card")


def stub(bundle: Path, wrong: float) -> Stub:
    loaded = load(bundle, device="cpu")
    result = Stub(loaded.model, loaded.config)
    result.wrong = wrong
    return result


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRID", {"bilateral_weight": (1.0, 4.0), "spatial_weight": (0.0, 3.0)})


def test_what_helps_is_kept(bundle: Path, data: Dataset) -> None:
    told: list[tuple[int, int, str]] = []
    found = tune_crf(stub(bundle, 0.25), bundle, data, iterations=4, on_step=lambda *step: told.append(step))
    assert found.helps and found.interval[0] > 0
    assert found.miou_after > 0.9 > found.miou_before
    assert found.gain == pytest.approx(found.miou_after - found.miou_before)
    assert found.settings.iterations == 4
    best = max(found.tried, key=lambda row: row["miou"])
    assert best["settings"] == found.settings.to_json() or best["miou"] == found.tried[0]["miou"]
    assert load(bundle, device="cpu").config.crf == found.settings
    assert read_json(bundle / "metrics.json")["miou"] == 0.5
    assert read_json(bundle / "metrics.json")["crf"]["gain"] == pytest.approx(found.gain)
    assert told[0][:2] == (1, 6) and told[-1][2] == "try settings"


def test_what_does_not_help_is_not_kept(bundle: Path, data: Dataset) -> None:
    tune_crf(stub(bundle, 0.25), bundle, data, iterations=2)
    found = tune_crf(stub(bundle, 0.0), bundle, data, iterations=2)  # nothing is left to gain
    assert not found.helps
    assert found.miou_before == 1 and found.gain == 0
    assert load(bundle, device="cpu").config.crf is None


def test_half_of_the_images_choose_for_the_other_half() -> None:
    good, bad = np.array([[9, 1], [0, 10]]), np.array([[5, 5], [5, 5]])
    before = np.stack([bad] * 4)
    lucky = np.stack([good, bad, good, bad])  # good on the even images only: they choose it for the odd ones
    assert (module._cross_fitted(before, [lucky]) == before).all()
    assert (module._cross_fitted(before, [np.stack([good] * 4)]) == good).all()


def test_fewer_images_and_too_few(bundle: Path, data: Dataset) -> None:
    assert tune_crf(stub(bundle, 0.25), bundle, data, images=3, iterations=1).images == 3
    with pytest.raises(InputError, match="images is 1: give 2 or more"):
        tune_crf(stub(bundle, 0.25), bundle, data, images=1)
