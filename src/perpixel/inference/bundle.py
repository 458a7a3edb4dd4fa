"""The bundle: what training leaves and every other command takes.

bundle/
  config.json        architecture, options, classes, channels, normalisation, scale, tile, versions, data fingerprint
  model.safetensors  weights
  metrics.json       scores so far
  README.md          model card
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perpixel.errors import InputError
from perpixel.files import make_folder, read_json, write_json, write_text
from perpixel.images import Normalisation, VolumeNormalisation
from perpixel.inference.components import ComponentRule
from perpixel.inference.crf.settings import CrfSettings
from perpixel.labels import ClassTable
from perpixel.models import MODELS, create_model, option_names
from perpixel.models.weights import load_weights, save_weights

FORMAT = 1


@dataclass(frozen=True)
class VolumeForm:
    """What else prediction needs to know of a net of volumes.

    Attributes:
        spacing_mm: voxel size (depth, row, column) that the net was trained at.
        mirror: axes along which it was trained with mirror images, which test-time augmentation may use.
        rules: class index -> which of its connected components are kept, for the classes that this helps.
    """

    spacing_mm: tuple[float, float, float]
    mirror: tuple[bool, bool, bool]
    rules: dict[int, ComponentRule] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        rules = {str(label): asdict(rule) for label, rule in self.rules.items()}
        return {"spacing_mm": list(self.spacing_mm), "mirror": list(self.mirror), "rules": rules}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> VolumeForm:
        depth, row, column = (float(side) for side in value["spacing_mm"])
        along = tuple(bool(is_mirrored) for is_mirrored in value["mirror"])
        rules = {int(label): ComponentRule(**rule) for label, rule in value["rules"].items()}
        return cls((depth, row, column), (along[0], along[1], along[2]), rules)


@dataclass(frozen=True)
class ObjectForm:
    """What else prediction needs to know of a model that finds objects one by one.

    Attributes:
        min_score: objects below are left out, chosen on the validation images.
    """

    min_score: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class BundleConfig:
    """Everything besides the weights that prediction needs.

    Attributes:
        model, options: name in MODELS and the options that it was made with.
        channels: image channels.
        scale: working scale: images are resized by this factor before the net, logits back after it.
        normalisation: of images, or of volumes.
        tile: (h, w) in source pixels; larger images are predicted in overlapping windows of this size. Of volumes
            (d, h, w) in voxels of the training spacing.
        precision: "bf16" or "fp32" arithmetic that the net was trained and validated in.
        temperature: logits are divided by it before softmax, so that probabilities can be believed; 1 until calibrated.
        crf: settings of the fully connected CRF that `perpixel tune-crf` has chosen; None where it has not, or where
            none was found that helps.
        volume: what only volumes need; None for images.
        objects: what only models of objects need; None for label maps.
        training, data, versions: for people and for reports; of these, prediction looks only at training["mirrors"],
            the kinds of mirror images that test-time augmentation may use.
    """

    model: str
    options: dict[str, Any]
    channels: int
    classes: ClassTable
    normalisation: Normalisation | VolumeNormalisation
    scale: float
    tile: tuple[int, ...]
    precision: str
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    temperature: float = 1.0
    crf: CrfSettings | None = None
    volume: VolumeForm | None = None
    objects: ObjectForm | None = None

    @property
    def task(self) -> str:
        """ "semantic" or "instances"."""
        return "semantic" if self.objects is None else "instances"

    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for volumes."""
        return 2 if self.volume is None else 3

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "task": self.task,
            "model": {"name": self.model, "options": self.options},
            "channels": self.channels,
            "classes": self.classes.to_json(),
            "normalisation": self.normalisation.to_json(),
            "scale": self.scale,
            "tile": list(self.tile),
            "precision": self.precision,
            "temperature": self.temperature,
            **({} if self.crf is None else {"crf": self.crf.to_json()}),
            **({} if self.volume is None else {"volume": self.volume.to_json()}),
            **({} if self.objects is None else {"objects": self.objects.to_json()}),
            "training": self.training,
            "data": self.data,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> BundleConfig:
        """Read what `to_json` wrote.

        Raises:
            InputError: a key is missing or of the wrong kind, or a newer format.
        """
        try:
            is_volume = value.get("volume") is not None
            if value["format"] > FORMAT:
                raise InputError(
                    f"{where}: bundle format {value['format']} is newer than what this perpixel reads ({FORMAT}): "
                    "upgrade perpixel"
                )
            return cls(
                model=value["model"]["name"],
                options=dict(value["model"]["options"]),
                channels=int(value["channels"]),
                classes=ClassTable.from_json(value["classes"], where),
                normalisation=(VolumeNormalisation if is_volume else Normalisation).from_json(value["normalisation"]),
                scale=float(value["scale"]),
                tile=tuple(int(side) for side in value["tile"][: 3 if is_volume else 2]),
                precision=str(value["precision"]),
                training=dict(value["training"]),
                data=dict(value["data"]),
                versions=dict(value["versions"]),
                temperature=_temperature(value.get("temperature", 1.0), where),
                crf=None if value.get("crf") is None else CrfSettings.from_json(value["crf"], where),
                volume=VolumeForm.from_json(value["volume"]) if is_volume else None,
                objects=None if value.get("objects") is None else ObjectForm(**value["objects"]),
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise InputError(f"{where}: not a bundle's config ({error!r}): export or train the bundle again") from error


def _temperature(value: Any, where: str) -> float:
    """Bundles from before calibration have none: 1."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{where}: temperature {value} is no number above 0: set 1, then calibrate the bundle again")
    return float(value)


def build_model(config: BundleConfig) -> nn.Module:
    """The untrained net of a bundle. Never downloads: trained weights are in the bundle."""
    options = {name: value for name, value in config.options.items() if name != "weights"}
    return create_model(config.model, in_channels=config.channels, num_classes=config.classes.num_classes, **options)


def save_bundle(
    folder: str | Path, *, model: nn.Module, config: BundleConfig, metrics: dict[str, Any], card: str
) -> Path:
    """Write a bundle. config.json comes last: a folder without it is not a bundle yet."""
    path = make_folder(folder)
    (path / "config.json").unlink(missing_ok=True)
    save_weights(model, path / "model.safetensors")
    write_json(path / "metrics.json", metrics)
    write_text(path / "README.md", card)
    write_json(path / "config.json", config.to_json())
    return path


def find_bundle(path: str | Path) -> Path:
    """The bundle folder for `path`, which may be a bundle or a run.

    Raises:
        InputError: neither, or a run that is not finished.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"{folder}: no such folder: give a run or a bundle folder")
    if not folder.is_dir():
        raise InputError(f"{folder}: a file, where a run or a bundle folder is needed: give the folder")
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        return folder
    if (folder / "bundle" / "config.json").is_file():
        return folder / "bundle"
    if (folder / "checkpoints").is_dir():
        raise InputError(
            f"{folder}: the run has not finished, so it has no bundle yet: perpixel train --resume {folder}"
        )
    raise InputError(f"{folder}: neither a run nor a bundle (no config.json with model.safetensors): check the path")


def read_bundle_config(folder: Path) -> BundleConfig:
    """The config of a bundle folder, as `find_bundle` gives it."""
    return BundleConfig.from_json(read_json(folder / "config.json"), str(folder / "config.json"))


def load_bundle(
    path: str | Path, *, prune_level: int | None = None, output_stride: int | None = None
) -> tuple[nn.Module, BundleConfig]:
    """Read the net (eval mode, fp32, on the CPU) and the config of a bundle or run.

    Args:
        prune_level: keep only the part of a U-Net++ that its head of this level needs; the config then says so too.
        output_stride: run a DeepLab v3 or v3+ at this stride, its dilations rescaled; the config then says so too.
    Raises:
        InputError: not a bundle, damaged, or a model that cannot be pruned or rescaled.
    """
    folder = find_bundle(path)
    config = read_bundle_config(folder)
    if prune_level is not None:
        config = _pruned(config, prune_level, str(folder))
    with torch.random.fork_rng(devices=[]):  # building draws initial weights; the caller's generator stays as it was
        model = build_model(config)
    load_weights(model, folder / "model.safetensors")
    if output_stride is not None:
        model, config = _at_stride(model, config, output_stride, str(folder))
    return model.eval(), config


def _at_stride(
    model: nn.Module, config: BundleConfig, output_stride: int, where: str
) -> tuple[nn.Module, BundleConfig]:
    """The same weights at another output stride, and the options that build them so."""
    if not hasattr(model, "with_output_stride"):
        able = ", ".join(name for name, each in MODELS.items() if hasattr(each, "with_output_stride"))
        raise InputError(
            f"{where}: output stride {output_stride}: '{config.model}' has one stride, only {able} can change it: "
            "leave it out"
        )
    with torch.random.fork_rng(devices=[]):
        other = model.with_output_stride(output_stride)  # type: ignore[operator]
    options = {**config.options, "output_stride": output_stride, "rates": other.rates}
    return other, replace(config, options=options)


def _pruned(config: BundleConfig, level: int, where: str) -> BundleConfig:
    """`config` of the same bundle's net, cut down to what its head `level` needs."""
    builder = MODELS.get(config.model)
    if builder is None or "prune_level" not in option_names(builder):
        able = ", ".join(name for name, each in MODELS.items() if "prune_level" in option_names(each))
        raise InputError(f"{where}: prune level {level}: '{config.model}' cannot be pruned, only {able}: leave it out")
    if not config.options.get("deep_supervision"):
        raise InputError(
            f"{where}: prune level {level}: this {config.model} was trained without deep supervision, so that it has "
            "only its last head: train one with -O deep_supervision=true"
        )
    return replace(config, options={**config.options, "deep_supervision": False, "prune_level": level})
