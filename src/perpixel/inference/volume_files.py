"""Many volumes in, label volumes out, each in the geometry of its source; what is done is not done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perpixel.errors import InputError
from perpixel.files import make_folder
from perpixel.images import Volume, read_volume, volume_format, write_png, write_volume
from perpixel.inference.bundle import BundleConfig
from perpixel.inference.files import OVERLAYS, PROBS, claim, fingerprint
from perpixel.inference.volumes import VolumePredictor
from perpixel.labels import draw_planes

UNCERTAINTY = "uncertainty"
# One file for each channel, as nnU-Net names them.
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
# (width, height) that the three planes of an overlay fit into.
OVERLAY_BOX = (1200, 480)
PAPER = (255, 255, 255)


@dataclass(frozen=True)
class VolumeInput:
    """One volume to predict: its name in the results, and its files, one or one for each channel."""

    name: str
    paths: tuple[Path, ...]

    @property
    def suffix(self) -> str:
        """Of the label volume: TIFF stacks stay what they are, and `.nii` stays uncompressed; all else is .nii.gz."""
        first = self.paths[0]
        if volume_format(first) == "tiff":
            return ".tif"
        return ".nii" if first.name.lower().endswith(".nii") else ".nii.gz"


def group_volumes(paths: Sequence[Path], channels: int) -> list[VolumeInput]:
    """Files as volumes: where all are named CASE_0000, CASE_0001, ... those of a case belong together.

    Raises:
        InputError: a case without all its channels, or two volumes of one name.
    """
    names = [_bare(path) for path in paths]
    matches = [CHANNEL.fullmatch(name) for name in names]
    if not matches or not all(matches) or (channels == 1 and len({m["case"] for m in matches if m}) < len(matches)):
        inputs = [VolumeInput(name, (path,)) for name, path in zip(names, paths)]
    else:
        cases: dict[str, list[Path]] = {}
        for match, path in sorted(zip(matches, paths), key=lambda pair: pair[1].name):
            assert match is not None
            cases.setdefault(match["case"], []).append(path)
        inputs = [VolumeInput(case, tuple(files)) for case, files in cases.items()]
        for each in inputs:
            if len(each.paths) not in (1, channels):
                raise InputError(
                    f"{each.paths[0]}: {len(each.paths)} files of case '{each.name}', but the model was trained on "
                    f"{channels} channels: give one file for each"
                )
    seen: dict[str, Path] = {}
    for each in inputs:
        if each.name in seen:
            raise InputError(
                f"{seen[each.name]} and {each.paths[0]}: both would be written to {each.name}: predict them apart"
            )
        seen[each.name] = each.paths[0]
    return inputs


def _bare(path: Path) -> str:
    return re.sub(r"(\.ome)?\.(nii\.gz|nii|tiff?|dcm|zarr)$", "", path.name, flags=re.IGNORECASE)


def predict_volumes(
    predictor: VolumePredictor,
    config: BundleConfig,
    volumes: Sequence[VolumeInput],
    out: str | Path,
    *,
    overlays: bool = True,
    probs: bool = False,
    uncertainty: bool = False,
    overwrite: bool = False,
    tta: bool = False,
    on_image: Callable[[int, int, str], None] | None = None,
) -> tuple[list[str], list[str]]:
    """Predict each volume into `out`.

    Args:
        predictor: of the bundle that `config` is of.
        volumes: as `group_volumes` gives them; results take their names.
        overlays: also write overlays/NAME.png, three planes with the classes laid over them.
        probs: also write probs/NAME.nii.gz, float32, the classes along the fourth axis.
        uncertainty: also write uncertainty/NAME.nii.gz, float32, 1 = all classes equally likely.
        overwrite: do again what is done by this model with these settings.
        tta: as `VolumePredictor.predict` takes it.
    Returns:
        (written, skipped) names.
    Raises:
        InputError: results of another model in `out`, an input that would be written over, unreadable or unwritable
            files.
    """
    if tta:
        predictor.mirrors()  # refuses before anything is written
    folder = make_folder(out)
    for each in volumes:
        if each.paths[0].resolve() == (folder / f"{each.name}{each.suffix}").resolve():
            raise InputError(f"{each.paths[0]}: its labels would be written over it: choose another --out")
    record = {
        "model": fingerprint(predictor.model, config, predictor.precision),
        "tta": tta,
        "classes": config.classes.to_json(),
    }
    claim(folder, record, overwrite)
    written, skipped = [], []
    for done, each in enumerate(volumes):
        targets = _targets(folder, each, overlays, probs, uncertainty)
        if not overwrite and all(target.is_file() for target in targets.values()):
            skipped.append(each.name)
        else:
            _predict_one(predictor, each, targets, tta)
            written.append(each.name)
        if on_image:
            on_image(done + 1, len(volumes), each.name)
    return written, skipped


def _targets(folder: Path, volume: VolumeInput, overlays: bool, probs: bool, uncertainty: bool) -> dict[str, Path]:
    targets = {"label_map": folder / f"{volume.name}{volume.suffix}"}
    if overlays:
        targets["overlay"] = folder / OVERLAYS / f"{volume.name}.png"
    if probs:
        targets["probs"] = folder / PROBS / f"{volume.name}.nii.gz"
    if uncertainty:
        targets["uncertainty"] = folder / UNCERTAINTY / f"{volume.name}.nii.gz"
    return targets


def _predict_one(predictor: VolumePredictor, source: VolumeInput, targets: dict[str, Path], tta: bool) -> None:
    volume = read_volume(source.paths)
    prediction = predictor.predict(volume, probs="probs" in targets, uncertainty="uncertainty" in targets, tta=tta)
    if "probs" in targets:
        assert prediction.probs is not None
        write_volume(targets["probs"], prediction.probs, volume.source)
    if "uncertainty" in targets:
        assert prediction.uncertainty is not None
        write_volume(targets["uncertainty"], prediction.uncertainty, volume.source)
    if "overlay" in targets:
        write_png(targets["overlay"], _overlay(volume, prediction.label_map, predictor))
    # The label map is written last: where it stands, the others stand too.
    write_volume(targets["label_map"], prediction.label_map, volume.source)


def _overlay(volume: Volume, label_map: np.ndarray, predictor: VolumePredictor) -> np.ndarray:
    _, painted = draw_planes(volume.array, label_map, predictor.classes, volume.spacing_mm, OVERLAY_BOX, PAPER)
    return painted
