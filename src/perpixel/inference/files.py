"""Many files in, label maps out: each result is whole or absent, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from perpixel.errors import InputError
from perpixel.files import atomic, make_folder, read_json, write_json
from perpixel.images import read_image, to_display, write_png
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.crf.settings import CrfSettings
from perpixel.inference.crf_steps import CrfSteps
from perpixel.inference.predictor import Prediction, Predictor
from perpixel.inference.sampling import check_samples
from perpixel.labels import overlay

# Beside the results: which model and settings made them, so that results of another are never taken for these.
RECORD = "predictions.json"
OVERLAYS, PROBS, STEPS = "overlays", "probs", "crf_steps"
UNCERTAINTIES = ("uncertainty", "model_uncertainty")
# What results look like, beside that record.
RESULTS = ("*.png", "*.npy", "*.nii", "*.nii.gz", "*.tif")


def predict_files(
    predictor: Predictor,
    images: Sequence[Path],
    out: str | Path,
    *,
    overlays: bool = True,
    probs: bool = False,
    uncertainty: bool = False,
    overwrite: bool = False,
    tta: bool = False,
    samples: int = 0,
    seed: int = 0,
    crf: CrfSettings | None = None,
    crf_steps: bool = False,
    on_image: Callable[[int, int, str], None] | None = None,
) -> tuple[list[str], list[str]]:
    """Predict each image into `out`.

    Args:
        images: files; results take their names (without the common folder), with the suffix .png.
        overlays: also write overlays/NAME.png.
        probs: also write probs/NAME.npy, (K, H, W) float16.
        uncertainty: also write uncertainty/NAME.png, 16-bit grey, 65535 = all classes equally likely; and with samples
            model_uncertainty/NAME.png on the same scale.
        overwrite: do again what is done by this model with these settings.
        tta, samples, seed, crf: as `Predictor.predict` takes them.
        crf_steps: also write crf_steps/NAME.png, the iterations of the CRF in one picture.
    Returns:
        (written, skipped) names.
    Raises:
        InputError: two images with one name, results of another model in `out`, unreadable or unwritable files.
    """
    if tta:
        predictor.mirrors()  # refuses before anything is written
    check_samples(predictor.model, samples)
    folder = make_folder(out)
    names = result_names(images)
    _refuse_own_inputs(images, names, folder)
    settings: dict[str, Any] = {"tta": tta}
    if samples:
        settings |= {"samples": samples, "seed": seed}
    config = predictor.config
    record = {"model": fingerprint(predictor.model, config, predictor.precision), **settings}
    record |= {} if crf is None else {"crf": crf.to_json()}
    claim(folder, record | {"classes": config.classes.to_json()}, overwrite)
    if crf is not None:
        settings["crf"] = crf
    maps = UNCERTAINTIES[: 2 if samples else 1] if uncertainty else ()
    written, skipped = [], []
    for done, (image, name) in enumerate(zip(images, names)):
        targets = _targets(folder, name, overlays, probs, maps)
        if crf is not None and crf_steps:
            targets["steps"] = folder / STEPS / f"{name}.png"
        # The label map is written last: where it stands, the others stand too.
        if not overwrite and all(target.is_file() for target in targets.values()):
            skipped.append(name)
        else:
            _predict_one(predictor, image, targets, settings)
            written.append(name)
        if on_image:
            on_image(done + 1, len(images), name)
    return written, skipped


def result_names(images: Sequence[Path]) -> list[str]:
    """Result names: the path below the folder that all images share, without suffix.

    Raises:
        InputError: two images would share a result.
    """
    parents = {image.resolve().parent for image in images}
    shared = parents.pop() if len(parents) == 1 else _common([image.resolve().parent for image in images])
    names = [image.resolve().relative_to(shared).with_suffix("").as_posix() for image in images]
    seen: dict[str, Path] = {}
    for name, image in zip(names, images):
        if name in seen:
            raise InputError(f"{seen[name]} and {image}: both would be written to {name}.png: predict them apart")
        seen[name] = image
    return names


def _common(folders: list[Path]) -> Path:
    shared = folders[0]
    while not all(folder.is_relative_to(shared) for folder in folders):
        shared = shared.parent
    return shared


def _refuse_own_inputs(images: Sequence[Path], names: Sequence[str], folder: Path) -> None:
    for image, name in zip(images, names):
        if image.resolve() == (folder / f"{name}.png").resolve():
            raise InputError(f"{image}: its label map would be written over it: choose another --out than its folder")


def claim(folder: Path, record: dict[str, Any], overwrite: bool) -> None:
    """Write down who makes the results here; refuse to mix them with another's.

    Args:
        overwrite: remove those of another.
    """
    path = folder / RECORD
    if path.is_file() and not overwrite:
        found: Any = read_json(path)
        if found != record:
            raise InputError(
                f"{folder}: holds predictions of another model or other settings: choose another --out, "
                "or replace them with --overwrite"
            )
    if overwrite and path.is_file():
        path.unlink()
        for pattern in RESULTS:
            for stale in folder.rglob(pattern):
                stale.unlink()
    write_json(path, record)


def fingerprint(model: nn.Module, config: BundleConfig, precision: str) -> str:
    """SHA-256 over the weights and everything in the config that changes an answer."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    content = config.to_json()
    parts = ("model", "channels", "classes", "normalisation", "scale", "tile", "volume")
    kept = {key: content[key] for key in parts if key in content}
    digest.update(json.dumps({**kept, "precision": precision}, sort_keys=True).encode())
    return digest.hexdigest()


def _targets(folder: Path, name: str, overlays: bool, probs: bool, maps: Sequence[str]) -> dict[str, Path]:
    targets = {"label_map": folder / f"{name}.png"}
    if overlays:
        targets["overlay"] = folder / OVERLAYS / f"{name}.png"
    if probs:
        targets["probs"] = folder / PROBS / f"{name}.npy"
    return targets | {kind: folder / kind / f"{name}.png" for kind in maps}


def _predict_one(predictor: Predictor, path: Path, targets: dict[str, Path], settings: dict[str, Any]) -> None:
    image = read_image(path)
    if "steps" in targets:
        steps = CrfSteps(image, predictor.config.classes, settings["crf"].iterations)
        settings = {**settings, "on_crf_step": steps}
    prediction = predictor.predict(
        image, probs="probs" in targets, uncertainty=UNCERTAINTIES[0] in targets, **settings
    )  # fmt: skip
    if "steps" in targets:
        write_png(targets["steps"], steps.picture())
    if "probs" in targets:
        assert prediction.probs is not None
        with atomic(targets["probs"]) as temporary, open(temporary, "wb") as file:
            np.save(file, prediction.probs.astype(np.float16))
    if "overlay" in targets:
        write_png(targets["overlay"], overlay(to_display(image), prediction.label_map, prediction.classes))
    for kind in set(UNCERTAINTIES) & set(targets):
        write_png(targets[kind], np.round(getattr(prediction, kind) * 65535).astype(np.uint16))
    write_label_map(targets["label_map"], prediction)


def write_label_map(path: str | Path, prediction: Prediction) -> Path:
    """An indexed PNG with the classes' colours; 16-bit grey above 256 classes."""
    label_map = prediction.label_map
    palette = prediction.classes.palette() if label_map.dtype == np.uint8 else None
    return write_png(path, label_map, palette=palette)
