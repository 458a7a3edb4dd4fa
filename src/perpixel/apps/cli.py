"""The command line: each verb parses, calls one function of the API, and prints.

Nothing heavy is imported here: `perpixel --help` answers at once, torch comes with the verb that needs it.
Exit codes: 0 done, 1 failed, 2 wrong input or usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import perpixel
from perpixel.apps import cli_models, screens
from perpixel.apps import options as opt
from perpixel.apps.failures import explain
from perpixel.apps.json_output import print_document
from perpixel.apps.progress import progress_events
from perpixel.apps.wording import format_score, plural
from perpixel.errors import InputError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Label every pixel: from a folder of images and masks to a trained, measured model.",
)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (or set PERPIXEL_DEBUG=1).")] = False,
) -> None:
    if version:
        print(perpixel.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demonstration.")] = Path("demo"),
    budget: Annotated[str | None, typer.Option(help="Wall time for training.", show_default=False)] = None,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Draw a data set, train, evaluate, predict and report, in about three minutes."""
    from perpixel.apps.demo import run_demo

    with progress_events() as on_event:
        made = run_demo(out, on_event=on_event, **opt.chosen({"budget": budget, "seed": seed}))
    if as_json:
        return print_document(made)
    console = screens.make_console()
    state = "done" if made.is_new else f"already done: {out}/demo.json"
    console.print(f"demonstration {state}, test mIoU {format_score(made.miou)}", style="bold", soft_wrap=True)
    screens.end(
        console,
        [
            ("data", made.data),
            ("run", made.run),
            ("predictions", f"{made.predictions} (label maps and overlays)"),
            ("report", f"{made.report} (open it in a browser)"),
        ],
        [
            screens.command("perpixel", "check", made.data),
            screens.command("perpixel", "train", "YOUR_FOLDER", "--budget", "10m"),
        ],
    )


@app.command()
def check(
    context: typer.Context,
    data: opt.Data,
    out: opt.Out = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    task: opt.Task = None,
    snap: opt.Snap = None,
    as_json: opt.AsJson = False,
) -> None:
    """Read every file once: counts, sizes, classes, and every problem with its remedy."""
    from perpixel.apps import api

    folder = out or Path(f"{data.resolve().stem or 'data'}-check")
    with progress_events() as on_event:
        result = api.check(
            data, out=folder, on_event=on_event, **opt.chosen(context.params, (*opt.DATA_SETTINGS, "task"))
        )
    if as_json:
        document = {name: value for name, value in result.to_json().items() if name != "train_classes"}
        print_document({**document, "out": folder})
    else:
        console = screens.make_console()
        screens.show_check(console, result)
        made = [(path.suffix[1:].upper(), path) for path in sorted(folder.glob("check*"))]
        how = ("--task", task) if task else ()
        advice = ("perpixel", "check", data) if result.errors else ("perpixel", "train", data, "--budget", "10m")
        screens.end(console, made, [screens.command(*advice, *how)])
    if result.errors:
        raise typer.Exit(2)


@app.command()
def plan(
    context: typer.Context,
    data: opt.Data,
    budget: opt.Budget = None,
    epochs: opt.Epochs = None,
    model: opt.Model = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    task: opt.Task = None,
    snap: opt.Snap = None,
    as_json: opt.AsJson = False,
) -> None:
    """Say what training would do with this data and this time, and why."""
    from perpixel.apps import api

    with progress_events() as on_event:
        settings = opt.chosen(context.params, ("budget", "epochs", "model", "task", *opt.DATA_SETTINGS))
        result = api.plan(data, on_event=on_event, **settings)
    lines = [{name: getattr(line, name) for name in ("setting", "value", "reason")} for line in result.lines]
    if as_json:
        return print_document({"lines": lines})
    console = screens.make_console()
    screens.show_plan(console, lines)
    length = ("--epochs", epochs) if epochs else ("--budget", budget or "10m")
    how = ("--task", task) if task else ()
    screens.end(console, [], [screens.command("perpixel", "train", data, *length, *how)])


@app.command()
def train(
    context: typer.Context,
    data: opt.OptionalData = None,
    budget: opt.Budget = None,
    epochs: opt.Epochs = None,
    patience: opt.Patience = None,
    resume: opt.Resume = None,
    extend: opt.Extend = None,
    model: opt.Model = None,
    encoder: opt.Encoder = None,
    option: opt.Options = None,
    weights: opt.Weights = None,
    start_from: opt.StartFrom = None,
    start_from_partial: opt.StartFromPartial = None,
    loss: opt.Loss = None,
    class_weights: opt.ClassWeights = None,
    rare_share: opt.RareShare = None,
    rare_power: opt.RarePower = None,
    repeat_threshold: opt.RepeatThreshold = None,
    batch_size: opt.BatchSize = None,
    crop: opt.Crop = None,
    scale: opt.Scale = None,
    learning_rate: opt.LearningRate = None,
    optimizer: opt.Optimizer = None,
    schedule: opt.Schedule = None,
    ema: opt.AverageWeights = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    task: opt.Task = None,
    snap: opt.Snap = None,
    precision: opt.Precision = None,
    device: opt.Device = None,
    devices: opt.Devices = None,
    tensorboard: opt.Tensorboard = None,
    out: opt.Out = None,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Train a model on a folder of images and masks, for a time or a number of epochs."""
    settings = opt.chosen({k: v for k, v in context.params.items() if k not in ("resume", "extend", "as_json")})
    if resume is not None:
        opt.refuse_with_resume(settings, "the run's")
    elif data is None:
        raise InputError("DATA is missing: give a folder of images and masks, or --resume RUN")
    elif extend is not None:
        raise InputError(f"--extend '{extend}': works with --resume RUN only: for a new run give --budget or --epochs")
    else:
        settings = _train_settings(settings)
    from perpixel.apps import api

    with progress_events() as on_event:
        if resume is not None:
            run = api.resume(resume, extend=extend, on_event=on_event)
        else:
            run = api.train(on_event=on_event, **settings)
    if as_json:
        return print_document({"run": run.path, "bundle": run.bundle, "metrics": run.metrics})
    console = screens.make_console()
    screens.show_training(console, run.metrics)
    path = screens.relative(run.path)
    made = [("run", path), ("bundle", screens.relative(run.bundle))]
    next_verbs = ("evaluate", "report")
    screens.end(console, made, [screens.command("perpixel", verb, path) for verb in next_verbs])


def _train_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `api.train`: model options gathered, the crop as numbers."""
    options = opt.parse_pairs(list(settings.pop("option", ())))
    for name in ("encoder", "weights"):
        if name in settings and name in options:
            raise InputError(f"--{name} {settings[name]} and -O {name}={options[name]}: keep one of them")
        if name in settings:
            options[name] = settings.pop(name)
    if options:
        settings["options"] = options
    if "crop" in settings:
        settings["crop"] = opt.parse_crop(settings["crop"])
    return settings


@app.command()
def evaluate(
    context: typer.Context,
    run: opt.Run,
    data: opt.OptionalData = None,
    split: Annotated[str, typer.Option(help="Which images: train, val or test.")] = "test",
    tta: opt.Augment = False,
    samples: opt.Samples = None,
    prune_level: opt.PruneLevel = None,
    output_stride: opt.OutputStride = None,
    crf: opt.Crf = False,
    crf_option: opt.CrfOptions = None,
    boundary: opt.Boundary = True,
    tolerance: opt.Tolerance = None,
    thin: opt.Thin = None,
    objects: opt.Objects = None,
    min_score: opt.MinScore = None,
    out: opt.Out = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    snap: opt.Snap = None,
    as_json: opt.AsJson = False,
) -> None:
    """Score a trained model: confusion matrix, IoU and outlines of every class, intervals, worst cases."""
    from perpixel.apps import api

    with progress_events() as on_event:
        settings = opt.chosen(context.params, opt.DATA_SETTINGS)
        way = {"prune_level": prune_level, "output_stride": output_stride, "samples": samples}
        settings |= opt.chosen(way) | opt.chosen(
            context.params, ("boundary", "tolerance", "thin", "objects", "min_score")
        )
        settings["crf"] = opt.parse_crf(crf, crf_option)
        result = api.evaluate(run, data, split=split, out=out, tta=tta, on_event=on_event, **settings)
    if as_json:
        return print_document({"path": result.path, **result.scores})
    console = screens.make_console()
    screens.show_scores(console, result.scores)
    screens.end(
        console,
        [("evaluation", f"{screens.relative(result.path)} (scores.json, per_image.csv, cases)")],
        [screens.command("perpixel", "report", run)],
    )


@app.command()
def calibrate(
    context: typer.Context,
    run: opt.Run,
    data: opt.OptionalData = None,
    split: Annotated[str, typer.Option(help="Images to choose the temperature on: val, train or test.")] = "val",
    seed: opt.Seed = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    snap: opt.Snap = None,
    as_json: opt.AsJson = False,
) -> None:
    """Make probabilities believable: choose a temperature on the validation images and keep it in the bundle."""
    from perpixel.apps import api

    with progress_events() as on_event:
        settings = opt.chosen(context.params, ("seed", *opt.DATA_SETTINGS))
        result = api.calibrate(run, data, split=split, on_event=on_event, **settings)
    if as_json:
        return print_document(result.to_json())
    console = screens.make_console()
    screens.show_temperature(console, result.to_json())
    made = [("temperature", f"{result.temperature:g}, in the config.json of the bundle")]
    screens.end(console, made, [screens.command("perpixel", "evaluate", run)])


@app.command("tune-crf")
def tune_crf(
    context: typer.Context,
    run: opt.Run,
    data: opt.OptionalData = None,
    split: Annotated[str, typer.Option(help="Images to search on: val, train or test.")] = "val",
    images: Annotated[
        int | None, typer.Option(min=2, help="At most so many (default: 100).", show_default=False)
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Of the CRF (default: 10).", show_default=False)] = None,
    seed: opt.Seed = None,
    format: opt.Format = None,
    classes: opt.Classes = None,
    splits: opt.Splits = None,
    group: opt.Group = None,
    ignore_values: opt.Ignore = None,
    snap: opt.Snap = None,
    as_json: opt.AsJson = False,
) -> None:
    """Search weights and widths of the CRF on the validation images; keep them in the bundle if they help."""
    from perpixel.apps import api

    with progress_events() as on_event:
        settings = opt.chosen(context.params, ("images", "iterations", "seed", *opt.DATA_SETTINGS))
        result = api.tune_crf(run, data, split=split, on_event=on_event, **settings)
    if as_json:
        return print_document(result.to_json())
    console = screens.make_console()
    screens.show_crf(console, result.to_json())
    made = [("CRF", "in the config.json of the bundle" if result.helps else "none kept: it does not surely help")]
    screens.end(console, made, [screens.command("perpixel", "evaluate", run, *(["--crf"] if result.helps else []))])


@app.command()
def predict(
    run: opt.Run,
    inputs: Annotated[list[str], typer.Argument(help="Images, folders or quoted globs.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for label maps and overlays.", show_default=False)],
    probs: Annotated[bool, typer.Option("--probs", help="Also write class probabilities.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write maps of uncertainty.")] = False,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Also write overlays.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict again what is there.")] = False,
    tta: opt.Augment = False,
    samples: opt.Samples = None,
    seed: opt.Seed = None,
    prune_level: opt.PruneLevel = None,
    output_stride: opt.OutputStride = None,
    crf: opt.Crf = False,
    crf_option: opt.CrfOptions = None,
    crf_steps: Annotated[bool, typer.Option("--crf-steps", help="With --crf: also draw its iterations.")] = False,
    min_score: opt.MinScore = None,
    as_json: opt.AsJson = False,
) -> None:
    """Label every pixel of images or volumes, or find their objects: label maps of the input's size, and overlays."""
    from perpixel.apps import api

    way = {
        "prune_level": prune_level,
        "output_stride": output_stride,
        "samples": samples,
        "seed": seed,
        "min_score": min_score,
    }
    refining = opt.parse_crf(crf or crf_steps, crf_option)
    with progress_events() as on_event:
        result = api.predict(
            run, inputs, out=out, overlays=overlays, probs=probs, uncertainty=uncertainty, overwrite=overwrite, tta=tta,
            crf=refining, crf_steps=crf_steps, on_event=on_event, **opt.chosen(way),
        )  # fmt: skip
    if as_json:
        document = {"out": result.out, "written": result.written, "skipped": result.skipped}
        return print_document(document | ({"crf": result.crf} if result.crf else {}))
    console = screens.make_console()
    skipped = (
        f", {len(result.skipped):,} were there already (--overwrite predicts them again)" if result.skipped else ""
    )
    console.print(f"{plural(len(result.written), 'label map')} written{skipped}", style="bold", soft_wrap=True)
    if result.crf and not result.crf_is_tuned:
        console.print(
            "refined by a CRF whose settings were not chosen for this model: perpixel tune-crf does", soft_wrap=True
        )
    screens.end(
        console,
        [("label maps", screens.relative(result.out))],
        [screens.command("perpixel", "predict", run, "MORE_IMAGES", "--out", out)],
    )


@app.command()
def report(
    run: opt.Run,
    out: Annotated[Path | None, typer.Option(help="HTML file.  (default: RUN/report.html)", show_default=False)] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write one self-contained HTML page about a run."""
    from perpixel.apps.report import write_report  # not through the API: a page needs no torch

    with progress_events():
        path = write_report(run, out)
    if as_json:
        return print_document({"report": path})
    console = screens.make_console()
    screens.end(
        console,
        [("report", f"{screens.relative(path)} (open it in a browser)")],
        [screens.command("perpixel", "predict", run, "IMAGES", "--out", "predictions")],
    )


app.command()(cli_models.models)
app.command()(cli_models.describe)
app.command()(cli_models.compare)
app.command()(cli_models.explain)
app.command("import-weights")(cli_models.import_weights)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1, 2 or 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("PERPIXEL_DEBUG", "") not in ("", "0")
    # Threads that wait for each other give up spinning soon: with one core taken by another process a training step was
    # measured 4 times as fast as with libgomp's default, and as fast on a quiet machine. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an odd file name must not end a command on an ASCII terminal
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=[word for word in words if word != "--debug"], prog_name="perpixel", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone; what Python flushes at exit must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        text, code = explain(error)
        print(f"perpixel: {text}", file=sys.stderr)
        return code
    if code == 130:
        print("perpixel: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
