"""Model + image -> label map: what validation, evaluation, `predict` and the server all call."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perpixel.errors import InputError
from perpixel.images import Normalisation
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.crf.dense import OnStep
from perpixel.inference.crf.settings import CrfSettings
from perpixel.inference.inputs import image_array, torch_ready
from perpixel.inference.refine import refined
from perpixel.inference.sampling import check_samples, mean_of_passes, sampling
from perpixel.inference.sliding import Run, sliding_window
from perpixel.labels import ClassTable, Instances, colourise
from perpixel.layers import mirror_to

# Share of a window shared with its neighbour on each side, before Gaussian blending.
OVERLAP = 0.25
# Axes of (..., H, W) that a mirror image turns round.
MIRRORS = {"horizontal": -1, "vertical": -2}


@dataclass(frozen=True)
class Prediction:
    """What the net says of one image.

    Attributes:
        label_map: (H, W), or (D, H, W) of a volume, uint8 (uint16 above 255 classes) class indices, the input's exact
            size. The maps below are of its shape.
        classes: names and colours of the indices.
        probs: (K, H, W) float32 probabilities, where asked for.
        uncertainty: (H, W) float32 entropy in 0..1 (1 = all classes equally likely), where asked for.
        model_uncertainty: (H, W) float32 in 0..`uncertainty`, where asked for of dropout samples: how much of that
            entropy is disagreement between the samples (their mutual information with the class), which more training
            images could resolve; the rest lies in the image.
        confidence: (H, W) float32 probability of the class in the label map, where asked for.
        instances: the objects with their scores, the best first, of a model that finds objects; else None.
    """

    label_map: np.ndarray
    classes: ClassTable
    probs: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    model_uncertainty: np.ndarray | None = None
    confidence: np.ndarray | None = None
    instances: Instances | None = None

    def colour(self) -> np.ndarray:
        """The label map in class colours, (H, W, 3) uint8."""
        return colourise(self.label_map, self.classes)


class Predictor:
    """A net with everything around it that turns an image into a label map.

    Args:
        model: (B, C, h, w) -> (B, K, h, w) logits.
        config: normalisation, working scale, tile and classes.
        device: where the net runs.
        precision: "bf16" | "fp32"; None takes the bundle's.
    """

    def __init__(
        self,
        model: nn.Module,
        config: BundleConfig,
        *,
        device: str | torch.device = "cpu",
        precision: str | None = None,
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.precision = precision or config.precision
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @property
    def normalisation(self) -> Normalisation:
        """Raw values -> what the net takes."""
        assert isinstance(self.config.normalisation, Normalisation)  # volumes have predictors of their own
        return self.config.normalisation

    def predict(
        self,
        image: np.ndarray | str | os.PathLike[str],
        *,
        probs: bool = False,
        uncertainty: bool = False,
        confidence: bool = False,
        tta: bool = False,
        samples: int = 0,
        seed: int = 0,
        crf: CrfSettings | None = None,
        on_tile: Callable[[int, int], None] | None = None,
        on_crf_step: OnStep | None = None,
    ) -> Prediction:
        """Label every pixel of one image.

        Args:
            image: a file, or (H, W, C) / (H, W) of the value range that the training images had.
            probs: also return probabilities, (K, H, W) float32.
            uncertainty: also return the entropy map, and with samples the model's part of it.
            confidence: also return the probability of the class chosen for each pixel.
            tta: average over the image and its mirror images, those of the kinds that the model was trained with.
            samples: average over this many passes with dropout on, of each mirror image too; 0 is one pass without.
            seed: of the dropout. The same seed on the same image, tile and machine gives the same answer.
            crf: refine probabilities, label map and confidence by a fully connected CRF, as `crf_settings` gives it.
                This holds the probabilities of the whole image in memory.
            on_tile: called with (done, total) windows.
            on_crf_step: called with (iteration, (K, H, W) marginals) of the CRF.
        Raises:
            InputError: unreadable file, wrong number of channels, not an image array, NaN or infinite values; tta
                without such training; samples of a model without dropout.
        """
        check_samples(self.model, samples)
        array = self.as_image(image)
        tensor = torch.from_numpy(torch_ready(array)).permute(2, 0, 1)[None]
        limits = self.normalisation.limits(array)
        with sampling(self.model, self.device, seed) if samples else nullcontext():
            result = sliding_window(
                self._runner(limits, tta, samples),
                tensor,
                num_classes=self.config.classes.num_classes,
                tile=self.config.tile,
                overlap=OVERLAP,
                probs=probs or crf is not None,
                uncertainty=uncertainty,
                model_uncertainty=uncertainty and samples > 0,
                confidence=confidence,
                on_tile=on_tile,
            )
        prediction = Prediction(
            label_map=result.label_map.astype(self.config.classes.dtype),
            classes=self.config.classes,
            probs=result.probs,
            uncertainty=result.uncertainty,
            model_uncertainty=result.model_uncertainty,
            confidence=result.confidence,
        )
        if crf is not None:
            prediction = refined(prediction, array, self.normalisation, crf, on_crf_step)
        return prediction if probs else replace(prediction, probs=None)

    def crf_settings(self) -> CrfSettings:
        """The CRF that `perpixel tune-crf` has chosen for this model, or the default one."""
        return self.config.crf or CrfSettings()

    def as_image(self, image: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
        """(H, W, C) with the model's channels, from a file or an array.

        Raises:
            InputError: unreadable file, wrong number of channels, not an image array, NaN or infinite values.
        """
        return image_array(image, self.config.channels)

    def _runner(self, limits: tuple[np.ndarray, np.ndarray], tta: bool, samples: int) -> Run:
        device = self.device
        views = self.mirrors() if tta else []
        shape = (1, -1, 1, 1)
        low = torch.as_tensor(np.asarray(limits[0], np.float32), device=device).view(shape)
        high = torch.as_tensor(np.asarray(limits[1], np.float32), device=device).view(shape)
        mean = torch.as_tensor(np.asarray(self.normalisation.mean, np.float32), device=device).view(shape)
        std = torch.as_tensor(np.asarray(self.normalisation.std, np.float32), device=device).view(shape)
        factor = 1 / ((high - low).clamp_min(1e-12) * std)
        offset = -low * factor - mean / std

        def run(window: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            image = window.to(device).float() * factor + offset
            if samples:
                ways = [(), *views] * samples
                return mean_of_passes(self._logits(image.flip(axes)).flip(axes) for axes in ways)
            logits = self._logits(image)
            if not views:
                return logits
            mirrored = (self._logits(image.flip(axes)).flip(axes) for axes in views)
            if logits.shape[1] == 1:  # the softmax of one logit is 1 whatever it is
                return mean_of_passes([logits, *mirrored])[0]
            return torch.stack([logits.log_softmax(1), *(each.log_softmax(1) for each in mirrored)]).logsumexp(0)

        return run

    def mirrors(self) -> list[tuple[int, ...]]:
        """Axes to flip for each mirror image that test-time augmentation averages over.

        Raises:
            InputError: the model was trained without mirror images.
        """
        ways = self.config.training.get("mirrors", ["horizontal"])
        axes = [axis for way, axis in MIRRORS.items() if isinstance(ways, list) and way in ways]
        if not axes:
            raise InputError(
                "tta: averaging over mirror images would make this model worse, since it was trained without them or "
                "its labels lie beside the edges of the images: leave it out"
            )
        return [(axis,) for axis in axes] + ([tuple(axes)] if len(axes) > 1 else [])

    @torch.inference_mode()
    def _logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) normalised -> (B, K, H, W) float32, through the working scale and valid-padding margins.

        Divided by the temperature: everything that softmax is taken of comes from here.
        """
        size = image.shape[-2:]
        if self.config.scale != 1.0:
            small = [max(1, round(side * self.config.scale)) for side in size]
            mode = "area" if self.config.scale < 1 else "bilinear"
            image = F.interpolate(image, small, mode=mode)
        with self._autocast():
            logits = run_model(self.model, image.contiguous(memory_format=torch.channels_last))
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        logits = logits.float()
        return logits if self.config.temperature == 1.0 else logits / self.config.temperature

    def _autocast(self) -> AbstractContextManager:
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def run_model(model: nn.Module, image: Tensor) -> Tensor:
    """Logits of the image's size; a valid-padding net gets the context that it needs by mirroring.

    Ronneberger et al. 2015: missing context is extrapolated by mirroring the input image.
    """
    margin = getattr(model, "margin", 0)
    if not margin:
        return model(image)
    height, width = image.shape[-2:]
    padded = model.fit_size((height + 2 * margin, width + 2 * margin))  # type: ignore[operator]
    logits = model(mirror_to(image, padded, margin))
    return logits[..., :height, :width]
