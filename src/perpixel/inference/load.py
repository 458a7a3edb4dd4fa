"""From a bundle to what predicts with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.images import Normalisation, VolumeNormalisation
from perpixel.inference.bundle import BundleConfig, load_bundle
from perpixel.inference.instance_predictor import InstancePredictor
from perpixel.inference.predictor import Predictor
from perpixel.inference.volumes import VolumePredictor

AnyPredictor = Predictor | VolumePredictor | InstancePredictor


def load(
    path: str | Path,
    *,
    device: str | None = None,
    backend: str = "auto",
    prune_level: int | None = None,
    output_stride: int | None = None,
) -> AnyPredictor:
    """A predictor from a bundle or a finished run; which kind, the model says.

    Args:
        device: "cpu", "cuda", "mps"; None takes a GPU where there is one.
        backend: "auto" or "torch".
        prune_level: 1 to 4 keeps only that part of a U-Net++ trained with deep supervision: smaller and faster.
        output_stride: 8 or 16 runs a DeepLab v3 or v3+ at this stride: finer, or faster, than it was trained.
    Raises:
        InputError: not a bundle, damaged, an unknown backend, or a model that cannot be pruned.
    """
    if backend not in ("auto", "torch"):
        raise InputError(f"unknown backend '{backend}': choose auto or torch")
    model, config = load_bundle(path, prune_level=prune_level, output_stride=output_stride)
    return make_predictor(model, config, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_for_images(path: str | Path, what: str, *, device: str | None = None) -> Predictor:
    """`load` for something that is made for label maps of images only.

    Args:
        what: that something, for the message.
    Raises:
        InputError: a model of volumes or of objects.
    """
    predictor = load(path, device=device)
    if isinstance(predictor, VolumePredictor):
        raise InputError(f"{path}: a model of volumes: {what} works with models of images only")
    if isinstance(predictor, InstancePredictor):
        raise InputError(f"{path}: a model of objects: {what} works with models that label pixels only")
    return predictor


def make_predictor(
    model: nn.Module, config: BundleConfig, *, device: str | torch.device = "cpu", precision: str | None = None
) -> AnyPredictor:
    """The net of a bundle with all that `config` says of its use.

    Args:
        precision: "bf16" | "fp32"; None takes the bundle's.
    """
    if config.objects is not None:
        return object_predictor(model, config, device=device, precision=precision)
    if config.volume is None:
        return Predictor(model, config, device=device, precision=precision)
    return volume_predictor(model, config, device=device, precision=precision)


def object_predictor(
    model: nn.Module, config: BundleConfig, *, device: str | torch.device = "cpu", precision: str | None = None
) -> InstancePredictor:
    """As `make_predictor`, of a model of objects."""
    assert config.objects is not None and isinstance(config.normalisation, Normalisation)
    return InstancePredictor(
        model,
        classes=config.classes,
        channels=config.channels,
        normalisation=config.normalisation,
        scale=config.scale,
        tile=(config.tile[0], config.tile[1]),
        min_score=config.objects.min_score,
        device=device,
        precision=precision or config.precision,
    )


def volume_predictor(
    model: nn.Module, config: BundleConfig, *, device: str | torch.device = "cpu", precision: str | None = None
) -> VolumePredictor:
    """As `make_predictor`, of a net of volumes."""
    form = config.volume
    assert form is not None and isinstance(config.normalisation, VolumeNormalisation)
    depth, height, width = config.tile
    return VolumePredictor(
        model,
        classes=config.classes,
        channels=config.channels,
        tile=(depth, height, width),
        normalise=config.normalisation.apply,
        spacing_mm=form.spacing_mm,
        mirror=form.mirror,
        rules=form.rules,
        temperature=config.temperature,
        device=device,
        precision=precision or config.precision,
    )
