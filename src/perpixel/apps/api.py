"""One function for each verb. The command line, the server and a notebook call these and nothing below them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perpixel.apps.config import make_config, parse_duration
from perpixel.apps.preparing import prepare_run, refuse_other_kind, refuse_volumes
from perpixel.apps.reading import AnyDataset, check_any, choose_task, of_images, open_any
from perpixel.apps.training import Run, extend_run, finish_run, train_run
from perpixel.data import CheckResult, Dataset, InstanceDataset, open_images, overlay_sheet
from perpixel.engine.calibrate import TemperatureResult, calibrate_bundle
from perpixel.engine.evaluate import evaluate_split
from perpixel.engine.evaluate_instances import evaluate_instances
from perpixel.engine.evaluate_volumes import evaluate_volumes
from perpixel.engine.run_folder import RunFolder
from perpixel.engine.tune_crf import CrfTuning
from perpixel.engine.tune_crf import tune_crf as tune_bundle_crf
from perpixel.errors import InputError
from perpixel.files import make_folder, write_json
from perpixel.inference.bundle import find_bundle, read_bundle_config
from perpixel.inference.crf import CrfSettings
from perpixel.inference.files import predict_files
from perpixel.inference.instance_files import predict_instance_files
from perpixel.inference.instance_predictor import InstancePredictor, check_score
from perpixel.inference.load import AnyPredictor, load, load_for_images
from perpixel.inference.predictor import Predictor
from perpixel.inference.volume_files import group_volumes, predict_volumes
from perpixel.inference.volumes import VolumePredictor
from perpixel.planning import Plan

__all__ = [
    "Evaluation",
    "Predictions",
    "Run",
    "calibrate",
    "check",
    "evaluate",
    "plan",
    "predict",
    "report",
    "resume",
    "train",
    "tune_crf",
]

OnEvent = Callable[[dict[str, Any]], None]
PathLike = str | Path
# True: the model's CRF; a mapping: with these settings in place of its own.
Crf = bool | Mapping[str, Any]


def _silent(event: dict[str, Any]) -> None:
    pass


@dataclass(frozen=True)
class Evaluation:
    """`path` of the results folder and `scores`, the content of its scores.json."""

    path: Path
    scores: dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """`out` folder, and the names of the images `written` now and `skipped` because they were done.

    `crf` holds the settings of the CRF that refined them, `crf_is_tuned` whether they are those that `tune_crf` chose.
    """

    out: Path
    written: list[str]
    skipped: list[str]
    crf: dict[str, Any] | None = None
    crf_is_tuned: bool = False


def check(
    data: PathLike,
    *,
    task: str = "auto",
    out: PathLike | None = None,
    on_event: OnEvent | None = None,
    **reading: Any,
) -> CheckResult:
    """Read every file of a data set once and report what it is and what is wrong with it.

    Args:
        data: folder, CSV list or COCO JSON.
        task: "semantic" reads label maps of images or volumes, "instances" objects one by one; "auto" is semantic.
        out: folder for check.json, fingerprint.json and the overlay sheet check_sheet.png; None writes nothing.
        on_event: called with progress events.
        reading: format, classes, splits, group, ignore_values, snap, seed, as `open_dataset` takes them.
    Raises:
        InputError: the data set cannot even be listed.
    """
    dataset = open_any(data, task=choose_task(task), **reading)
    result = _checked(dataset, on_event or _silent)
    if out is not None:
        folder = make_folder(out)
        write_json(folder / "check.json", result.to_json())
        write_json(folder / "fingerprint.json", result.fingerprint.to_json())
        overlay_sheet(of_images(dataset), folder / "check_sheet.png")
    return result


def _checked(dataset: AnyDataset, on_event: OnEvent) -> CheckResult:
    def tell(done: int, total: int, name: str) -> None:
        on_event({"kind": "progress", "done": done, "total": total, "text": f"check {name}"})

    on_event({"kind": "phase", "text": "Checking the data"})
    return check_any(dataset, on_progress=tell)


def plan(
    data: PathLike, *, budget: str | float | None = None, on_event: OnEvent | None = None, **settings: Any
) -> Plan:
    """What `train` would do with this data, budget and machine, and why; nothing is trained or written.

    Args:
        data: as for `check`.
        budget: "10m", "2h" or seconds.
        settings: any setting of `train`.
    """
    budget_s = None if budget is None else parse_duration(budget)
    config = make_config(data=str(data), budget_s=budget_s, **settings)
    return prepare_run(config, on_event=on_event or _silent).plan


def train(
    data: PathLike,
    *,
    model: str = "auto",
    budget: str | float | None = None,
    epochs: int | None = None,
    out: PathLike | None = None,
    seed: int = 0,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Run:
    """Check the data, plan, train, and leave a run folder with a bundle.

    Args:
        data: folder of images and masks, CSV list or COCO JSON.
        model: a name in MODELS, or "auto".
        budget: wall time for everything that this call does: "10m", "2h", or seconds. Default 10 minutes.
        epochs: passes over the training images, in place of a budget.
        out: run folder; default runs/DATA-MODEL.
        seed: same seed (and epochs), same weights.
        on_event: called with each event of log.jsonl, and with phases and progress.
        settings: task ("semantic" labels pixels, "instances" finds objects one by one), loss, class_weights,
            batch_size, crop (h, w), scale, learning_rate, optimizer, schedule, options,
            precision, device, devices, patience, ...: the fields of `TrainConfig`. `start_from` takes a run or a bundle
            whose weights to start from: the same model, or for FCN a coarser one; with `start_from_partial` whatever
            tensors fit.
    Raises:
        InputError: broken data, impossible settings, a run in `out` already.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    began = time.perf_counter()
    if budget is not None and epochs is not None:
        raise InputError(f"budget {budget} and epochs {epochs} were both given: give one of them")
    budget_s = None if budget is None else parse_duration(budget)
    config = make_config(data=str(data), model=model, budget_s=budget_s, epochs=epochs, seed=seed, **settings)
    return train_run(config, out=out, began=began, on_event=on_event or _silent)


def resume(run: PathLike, *, extend: str | None = None, on_event: OnEvent | None = None) -> Run:
    """Go on with a run that was interrupted or killed, or lengthen one.

    Args:
        run: the run folder.
        extend: more time ("5m") or more epochs ("10"); None only finishes what was planned.
    Returns:
        The finished run; on the CPU its weights are the same bits as those of a run that was never stopped.
    """
    folder = RunFolder(run).open()
    if extend is not None:
        extend_run(folder, extend)
    return finish_run(folder, on_event=on_event or _silent)


def evaluate(
    bundle: PathLike,
    data: PathLike | None = None,
    *,
    split: str = "test",
    out: PathLike | None = None,
    tta: bool = False,
    samples: int = 0,
    prune_level: int | None = None,
    output_stride: int | None = None,
    crf: Crf = False,
    boundary: bool = True,
    tolerance: float | None = None,
    thin: Sequence[str] = (),
    objects: str | None = None,
    min_score: float | None = None,
    device: str | None = None,
    on_event: OnEvent | None = None,
    **reading: Any,
) -> Evaluation:
    """Score a model on a split: confusion matrix, IoU, Dice, accuracies, outlines, calibration, intervals, a table of
    images, and pictures of cases. Of volumes: Dice, IoU and surface distances in mm of each structure in each case.
    Of objects: COCO's AP of masks and boxes, F1, panoptic quality, AJI, outlines, and what was missed or merged.

    Args:
        bundle: a run or a bundle.
        data: data set; None takes the one that the run was trained on.
        split: "train", "val" or "test".
        out: results folder; default evaluation/SPLIT beside the bundle, SPLIT-L2 where pruned to level 2, SPLIT-OS8 at
            output stride 8, SPLIT-CRF where refined.
        tta: average over mirror images of the kinds that the model was trained with; refused where there are none.
        samples: average over this many passes with dropout on; refused for models without.
        prune_level: score only this part, 1 to 4, of a U-Net++ trained with deep supervision.
        output_stride: run a DeepLab v3 or v3+ at this stride, with the same weights.
        crf: refine by a fully connected CRF: True takes what `tune_crf` has chosen, else the default; a mapping
            replaces some of its settings.
        boundary: measure outlines: BF score, boundary IoU, surface distances.
        tolerance: pixels within which an outline is met; None is 0.75 % of each image's diagonal. Of volumes
            millimetres; None is the longest side of a voxel in training.
        thin: classes whose skeletons are compared (clDice).
        objects: class whose connected parts are scored as objects (V_Rand, V_Info).
        min_score: of models of objects: all scores but AP look at objects from this score on; None takes the bundle's.
    """
    tell = on_event or _silent
    folder = find_bundle(bundle)
    home = folder.parent if folder.name == "bundle" else folder
    dataset = _dataset_for(home, data, reading)
    refuse_other_kind(folder, read_bundle_config(folder), dataset)
    tell({"kind": "phase", "text": f"Evaluating on {split}"})

    name = split + ("" if prune_level is None else f"-L{prune_level}")
    name += "" if output_stride is None else f"-OS{output_stride}"
    name += "" if crf is False else "-CRF"
    where = Path(out) if out is not None else home / "evaluation" / name
    way: dict[str, Any] = {"prune_level": prune_level, "output_stride": output_stride}
    predictor = load(folder, device=device, **way)
    if isinstance(predictor, InstancePredictor):
        _refuse_for(predictor, samples=samples, crf=crf, thin=thin, objects=objects, tta=tta, tolerance=tolerance)
        assert isinstance(dataset, InstanceDataset)
        result = evaluate_instances(
            predictor, dataset, split, where, min_score=min_score, boundary=boundary, on_image=_image_events(tell)
        )
    elif isinstance(predictor, VolumePredictor):
        _refuse_for(predictor, samples=samples, crf=crf, thin=thin, objects=objects, min_score=min_score)
        assert isinstance(dataset, Dataset)
        result = evaluate_volumes(
            predictor, read_bundle_config(folder), dataset, split, where, tta=tta, boundary=boundary,
            tolerance_mm=tolerance, on_image=_image_events(tell),
        )  # fmt: skip
    else:
        _refuse_for(predictor, min_score=min_score)
        assert isinstance(dataset, Dataset)
        result = evaluate_split(
            predictor, dataset, split, where, tta=tta, dropout_samples=samples, crf=_crf_settings(predictor, crf),
            boundary=boundary, tolerance=tolerance, thin=thin, objects=objects, on_image=_image_events(tell),
        )  # fmt: skip
    result = {**result, "data": str(dataset.root), "bundle": str(folder), **way}
    write_json(where / "scores.json", result)
    return Evaluation(where, result)


def calibrate(
    bundle: PathLike,
    data: PathLike | None = None,
    *,
    split: str = "val",
    seed: int = 0,
    device: str | None = None,
    on_event: OnEvent | None = None,
    **reading: Any,
) -> TemperatureResult:
    """Choose the temperature of a model's probabilities on images that it was not trained on; keep it in its bundle.

    Label maps stay as they are (but for windows that overlap, where the blending may tip); probabilities, uncertainties
    and what `evaluate` says of calibration change.

    Args:
        bundle: a run or a bundle. Its config.json gets the temperature, its metrics.json the errors before and after.
        data: data set; None takes the one that the run was trained on.
        split: not "test" if test scores are to be reported.
        seed: of the choice of pixels.
    """
    tell = on_event or _silent
    folder = find_bundle(bundle)
    home = folder.parent if folder.name == "bundle" else folder
    dataset = _dataset_for(home, data, reading)
    pixels = refuse_volumes(dataset, "calibrate")
    tell({"kind": "phase", "text": f"Calibrating on {split}"})

    return calibrate_bundle(
        load_for_images(folder, "calibrate", device=device),
        folder,
        pixels,
        split,
        seed=seed,
        on_image=_image_events(tell),
    )


def _crf_settings(predictor: Predictor, crf: Crf) -> CrfSettings | None:
    """The CRF asked for: none, the model's, or the model's with other numbers."""
    if crf is False:
        return None
    if crf is True:
        return predictor.crf_settings()
    return CrfSettings.from_json({**predictor.crf_settings().to_json(), **crf}, "crf")


def tune_crf(
    bundle: PathLike,
    data: PathLike | None = None,
    *,
    split: str = "val",
    images: int = 100,
    iterations: int = 10,
    seed: int = 0,
    device: str | None = None,
    on_event: OnEvent | None = None,
    **reading: Any,
) -> CrfTuning:
    """Search the weights and widths of the CRF for a model; keep them in its bundle if they help.

    Args:
        bundle: a run or a bundle. Its config.json gets the settings, or none where the gain is not sure; its
            metrics.json everything that was tried.
        data: data set; None takes the one that the run was trained on.
        split: not "test" if test scores are to be reported.
        images: at most so many, chosen at random.
        iterations: of the CRF.
        seed: of the choice of images and of the bootstrap.
    """
    tell = on_event or _silent
    folder = find_bundle(bundle)
    home = folder.parent if folder.name == "bundle" else folder
    dataset = _dataset_for(home, data, reading)
    pixels = refuse_volumes(dataset, "tune-crf")
    tell({"kind": "phase", "text": f"Tuning the CRF on {split}"})

    def on_step(done: int, total: int, name: str) -> None:
        tell({"kind": "progress", "done": done, "total": total, "text": name})

    return tune_bundle_crf(
        load_for_images(folder, "tune-crf", device=device), folder, pixels, split, images=images,
        iterations=iterations, seed=seed, on_step=on_step,
    )  # fmt: skip


def _refuse_for(predictor: AnyPredictor, **settings: Any) -> None:
    """Refuse what means nothing to a model of this kind."""
    kinds = {VolumePredictor: "volumes", InstancePredictor: "objects"}
    kind = kinds.get(type(predictor), "label maps of images")
    for name, value in settings.items():
        if value not in (None, False, 0, (), []):
            raise InputError(f"{name} {value}: means nothing to this model, which is one of {kind}: leave it out")


def _image_events(tell: OnEvent) -> Callable[[int, int, str], None]:
    """What tells of every image that is done."""

    def on_image(done: int, total: int, name: str) -> None:
        tell({"kind": "progress", "done": done, "total": total, "text": name})

    return on_image


def _dataset_for(home: Path, data: PathLike | None, reading: dict[str, Any]) -> AnyDataset:
    """The data set as the run read it: same splits and classes, unless another is given."""
    task = read_bundle_config(find_bundle(home)).task
    run = RunFolder(home)
    saved = run.read("config.json") if (home / "splits.json").is_file() else None
    if saved is None:
        if data is None:
            raise InputError(f"{home}: a bundle does not hold its data: give the data folder as well")
        return open_any(data, task=task, **reading)
    same = data is None or Path(data).resolve() == Path(saved["data"]).resolve()
    if not same:
        assert data is not None
        return open_any(data, task=task, **{"classes": home / "classes.json", **reading})
    kept = {name: saved[name] for name in ("format", "group", "snap", "seed")}
    kept |= {"classes": home / "classes.json", "splits": home / "splits.json"}
    return open_any(saved["data"], task=task, **{**kept, **reading})


def predict(
    bundle: PathLike,
    inputs: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    overlays: bool = True,
    probs: bool = False,
    uncertainty: bool = False,
    overwrite: bool = False,
    tta: bool = False,
    samples: int = 0,
    seed: int = 0,
    prune_level: int | None = None,
    output_stride: int | None = None,
    crf: Crf = False,
    crf_steps: bool = False,
    min_score: float | None = None,
    device: str | None = None,
    on_event: OnEvent | None = None,
) -> Predictions:
    """Label files: an indexed PNG of each image's exact size and name, with overlays and probabilities where asked.

    Of volumes: a label volume in the very geometry of each source (.nii.gz, .nii or .tif), overlays of three planes,
    probabilities and uncertainties as .nii.gz. Of objects: a label image with a number for each, objects.json (COCO),
    objects.csv (a row each: class, score, area, box, middle, brightness), overlays with outlines and scores.

    Args:
        bundle: a run or a bundle.
        inputs: files, folders or patterns.
        out: folder; label maps in it, overlays in overlays/, probabilities in probs/ (NPY, float16), uncertainties in
            uncertainty/ and, with samples, the model's part of them in model_uncertainty/ (16-bit PNG, 65535 = all
            classes equally likely).
        overwrite: do again what is done; otherwise files whose results are there are skipped.
        samples: average over this many passes with dropout on, drawn from `seed`; refused for models without.
        prune_level: use only this part, 1 to 4, of a U-Net++ trained with deep supervision.
        output_stride: run a DeepLab v3 or v3+ at this stride, with the same weights.
        crf: refine by a fully connected CRF, as for `evaluate`.
        crf_steps: with crf, also write its iterations as a picture, crf_steps/NAME.png.
        min_score: of models of objects: those below are left out; None takes what the bundle says.
    Raises:
        InputError: no image found, a file that cannot be read, an output that cannot be written.
    """
    tell = on_event or _silent
    listed = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    predictor = load(bundle, device=device, prune_level=prune_level, output_stride=output_stride)
    if isinstance(predictor, InstancePredictor):
        _refuse_for(
            predictor, samples=samples, crf=crf, crf_steps=crf_steps, tta=tta, probs=probs, uncertainty=uncertainty
        )
        images = [image for one in listed for image in open_images(one)]
        if min_score is not None:
            predictor.min_score = check_score(min_score)
        written, skipped = predict_instance_files(
            predictor, images, out, overlays=overlays, overwrite=overwrite, on_image=_image_events(tell)
        )
        return Predictions(Path(out), written, skipped)
    _refuse_for(predictor, min_score=min_score)
    if isinstance(predictor, VolumePredictor):
        _refuse_for(predictor, samples=samples, crf=crf, crf_steps=crf_steps)
        paths = [path for one in listed for path in open_images(one, spatial_dims=3)]
        written, skipped = predict_volumes(
            predictor, read_bundle_config(find_bundle(bundle)), group_volumes(paths, predictor.channels), out,
            overlays=overlays, probs=probs, uncertainty=uncertainty, overwrite=overwrite, tta=tta,
            on_image=_image_events(tell),
        )  # fmt: skip
        return Predictions(Path(out), written, skipped)
    images = [image for one in listed for image in open_images(one)]
    refining = _crf_settings(predictor, crf)

    written, skipped = predict_files(
        predictor, images, out, overlays=overlays, probs=probs, uncertainty=uncertainty, overwrite=overwrite, tta=tta,
        samples=samples, seed=seed, crf=refining, crf_steps=crf_steps, on_image=_image_events(tell),
    )  # fmt: skip
    if refining is None:
        return Predictions(Path(out), written, skipped)
    return Predictions(Path(out), written, skipped, refining.to_json(), refining == predictor.config.crf)


def report(run: PathLike, *, out: PathLike | None = None) -> Path:
    """One self-contained HTML page about a run. Returns its path."""
    from perpixel.apps.report import write_report

    return write_report(RunFolder(run).open().path, out)
