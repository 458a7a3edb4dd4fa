"""Dropout at test time: means and entropies by hand, and that nothing is changed but the dropout."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.files import predict_files
from perpixel.inference.predictor import Predictor
from perpixel.inference.sampling import dropout_layers, mean_of_passes
from perpixel.inference.sliding import sliding_window
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import NETS, create_model

CLASSES = ClassTable((ClassInfo("dark", (0, 0, 0), (0,)), ClassInfo("bright", (250, 10, 20), (1,))))
CONFIG = BundleConfig(
    model="bayesian_segnet",
    options={"width": 2},
    channels=1,
    classes=CLASSES,
    normalisation=Normalisation((0.0,), (255.0,), (0.5,), (0.5,)),
    scale=1.0,
    tile=(64, 64),
    precision="fp32",
)
IMAGE = np.random.default_rng(0).integers(0, 255, (40, 48), dtype=np.uint8)


def logits_of(*chances: float) -> Tensor:
    """(1, 2, 1, n) logits whose softmax gives these chances of class 1."""
    second = torch.tensor(chances, dtype=torch.float64)
    return torch.stack([1 - second, second])[None, :, None].log()


def bits(chance: float) -> float:
    return -sum(p * math.log2(p) for p in (chance, 1 - chance) if p > 0)


def test_mean_and_entropy_by_hand():
    """Sure of opposite classes, torn both times, and something in between."""
    logits, doubt = mean_of_passes([logits_of(1.0, 0.5, 0.9), logits_of(0.0, 0.5, 0.5)])
    assert logits.softmax(1)[0, 1, 0].tolist() == pytest.approx([0.5, 0.5, 0.7])
    assert doubt[0, 0].tolist() == pytest.approx([0, 1, (bits(0.9) + 1) / 2], abs=1e-6)


def test_one_logit_is_that_of_the_second_class():
    two, doubt = mean_of_passes([logits_of(0.9, 0.2), logits_of(0.4, 0.2)])
    passes = [torch.tensor([[[chances]]]).logit() for chances in ([0.9, 0.2], [0.4, 0.2])]
    one, doubt_of_one = mean_of_passes(passes)
    assert one.shape == (1, 1, 1, 2)
    assert one.sigmoid()[0, 0].tolist()[0] == pytest.approx(two.softmax(1)[0, 1, 0].tolist())
    assert doubt_of_one.flatten().tolist() == pytest.approx(doubt.flatten().tolist(), abs=1e-6)


@pytest.mark.parametrize("size", [(5, 7), (30, 31)])
def test_windows_blend_what_the_passes_say(size):
    """Where all windows agree, uncertainties are those of one window; tile 16 makes one window or many."""

    def run(window: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(window), 1, *window.shape[-2:])
        return mean_of_passes(logits_of(chance)[:, :, :, :1].expand(shape[0], 2, *shape[2:]) for chance in (0.9, 0.5))

    result = sliding_window(
        run,
        torch.zeros(1, 1, *size),
        num_classes=2,
        tile=(16, 16),
        probs=True,
        uncertainty=True,
        model_uncertainty=True,
    )
    assert np.allclose(result.probs[1], 0.7, atol=1e-5)
    assert np.allclose(result.uncertainty, bits(0.7), atol=1e-5)
    assert np.allclose(result.model_uncertainty, bits(0.7) - (bits(0.9) + 1) / 2, atol=1e-5)
    assert result.label_map.min() == 1


class Coin(nn.Module):
    """Class 1 on the left in every pass; on the right in half of them, pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        right = torch.arange(image.shape[-1]) >= image.shape[-1] // 2
        thrown = self.dropout(torch.ones_like(image)) - 1  # 1 or -1
        second = torch.where(right, thrown, 1.0) * 20 + 0 * self.norm(image)
        return torch.cat([-second, second], 1)


def test_disagreement_is_the_models_uncertainty():
    prediction = Predictor(Coin(), CONFIG).predict(IMAGE, probs=True, uncertainty=True, samples=40)
    left, right = np.s_[:, :24], np.s_[:, 24:]
    assert prediction.probs is not None and prediction.model_uncertainty is not None
    assert (prediction.label_map[left] == 1).all()
    assert prediction.model_uncertainty[left].max() < 1e-3
    assert prediction.model_uncertainty[right].mean() > 0.95
    assert prediction.probs[1][right].mean() == pytest.approx(0.5, abs=0.02)
    assert np.allclose(prediction.model_uncertainty, prediction.uncertainty, atol=1e-5)  # every pass is sure


def bayesian(seed: int = 0) -> Predictor:
    """Untrained, but with logits large enough for dropout to change them visibly."""
    torch.manual_seed(seed)
    model = create_model("bayesian_segnet", in_channels=1, num_classes=2, width=2)
    with torch.no_grad():
        model.classifier.weight *= 30
    return Predictor(model, CONFIG)


def test_samples_are_drawn_from_the_seed():
    predictor = bayesian()
    first, again = (predictor.predict(IMAGE, probs=True, samples=3, seed=7).probs for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, predictor.predict(IMAGE, probs=True, samples=3, seed=8).probs)
    assert not np.array_equal(first, predictor.predict(IMAGE, probs=True).probs)


@pytest.mark.parametrize("tile", [(64, 64), (32, 32)])
def test_the_models_part_is_a_part(tile):
    predictor = bayesian()
    predictor.config = replace(CONFIG, tile=tile)
    prediction = predictor.predict(IMAGE, uncertainty=True, samples=4)
    assert (prediction.model_uncertainty >= 0).all()
    assert (prediction.model_uncertainty <= prediction.uncertainty + 1e-6).all()
    assert prediction.model_uncertainty.max() > 1e-3
    assert predictor.predict(IMAGE, uncertainty=True).model_uncertainty is None
    assert predictor.predict(IMAGE, samples=2).uncertainty is None


def test_only_dropout_is_awake_and_only_meanwhile():
    predictor = bayesian()
    modes: list[tuple[bool, ...]] = []

    def note(part: nn.Module, args: object, output: object) -> None:
        norms = [each for each in predictor.model.modules() if isinstance(each, nn.BatchNorm2d)]
        modes.append((predictor.model.training, predictor.model.dropout.training, any(n.training for n in norms)))

    predictor.model.classifier.register_forward_hook(note)
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    predictor.predict(IMAGE, samples=2)
    predictor.predict(IMAGE)
    assert modes == [(False, True, False)] * 2 + [(False, False, False)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())


def test_dropout_sleeps_again_after_a_failure():
    predictor = bayesian()
    predictor.model.classifier.register_forward_hook(lambda part, args, output: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predictor.predict(IMAGE, samples=2)
    assert not any(part.training for part in predictor.model.modules())


def test_mirror_images_are_sampled_too():
    predictor = bayesian()
    calls: list[int] = []
    predictor.model.classifier.register_forward_hook(lambda part, args, output: calls.append(1))
    predictor.config = replace(CONFIG, training={"mirrors": ["horizontal", "vertical"]})
    predictor.predict(IMAGE, samples=3, tta=True)
    assert len(calls) == 4 * 3


def test_samples_without_dropout_are_refused(tmp_path: Path):
    torch.manual_seed(0)
    plain = Predictor(create_model("segnet", in_channels=1, num_classes=2, width=2), CONFIG)
    with pytest.raises(InputError, match="samples 5: SegNet has no dropout to sample from: leave it out, or train"):
        plain.predict(IMAGE, samples=5)
    with pytest.raises(InputError, match="samples -1: give the number of random passes"):
        bayesian().predict(IMAGE, samples=-1)
    image = write_png(tmp_path / "in" / "a.png", IMAGE)
    with pytest.raises(InputError, match="has no dropout"):
        predict_files(plain, [image], tmp_path / "out", samples=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "count"), [("bayesian_segnet", 1), ("segnet", 0), ("unet", 0), ("unet_valid", 1), ("fc_densenet56", 49)]
)
def test_models_with_dropout_are_known(name: str, count: int):
    """One layer that is used six times in SegNet; one for each convolution but seven in FC-DenseNet56."""
    with torch.device("meta"):
        assert len(dropout_layers(NETS[name]())) == count


def test_maps_are_written_beside_the_label_maps(tmp_path: Path):
    image = write_png(tmp_path / "in" / "a.png", IMAGE)
    predictor, out = bayesian(), tmp_path / "out"
    assert predict_files(predictor, [image], out, uncertainty=True, samples=3, seed=1) == (["a"], [])
    prediction = predictor.predict(IMAGE, uncertainty=True, samples=3, seed=1)
    for kind in ("uncertainty", "model_uncertainty"):
        written = np.array(Image.open(out / kind / "a.png"))
        assert written.dtype == np.uint16
        assert np.abs(written / 65535 - getattr(prediction, kind)).max() <= 0.5 / 65535 + 1e-7
    assert predict_files(predictor, [image], out, uncertainty=True, samples=3, seed=1) == ([], ["a"])
    for other in ({"samples": 4, "seed": 1}, {"samples": 3, "seed": 2}, {}):
        with pytest.raises(InputError, match="holds predictions of another model or other settings"):
            predict_files(predictor, [image], out, uncertainty=True, **other)
    assert predict_files(predictor, [image], out, uncertainty=True, overwrite=True) == (["a"], [])
    assert not (out / "model_uncertainty" / "a.png").exists()
    assert np.array(Image.open(out / "uncertainty" / "a.png")).max() > 0
