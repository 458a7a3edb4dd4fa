"""The verbs about architectures: list, describe, compare, explain them. `cli.py` puts them into the command line.

As there, nothing heavy is imported before the verb that needs it runs.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from perpixel.apps import options as opt
from perpixel.apps import screens
from perpixel.apps.json_output import print_document
from perpixel.apps.progress import progress_events
from perpixel.apps.wording import format_large, one_line, plural
from perpixel.errors import InputError
from perpixel.files import write_text


def models(as_json: opt.AsJson = False) -> None:
    """List the architectures and their options."""
    from perpixel.models import MODELS

    rows = [_model_row(name, MODELS[name]) for name in MODELS]
    if as_json:
        return print_document({"models": rows})
    console = screens.make_console()
    screens.show_models(console, rows)
    screens.end(console, [], [screens.command("perpixel", "describe", rows[0]["name"], "--size", "480x360")])


def _model_row(name: str, build: Any) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    options = {
        p.name: p.default
        for p in parameters
        if p.name not in ("in_channels", "num_classes") and p.default is not inspect.Parameter.empty
    }
    shown = {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in options.items()
    }
    return {"name": name, "summary": one_line((build.__doc__ or "").strip().partition("\n\n")[0]), "options": shown}


def describe(
    model: Annotated[str, typer.Argument(help="A name that `perpixel models` lists.", show_default=False)],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Input size, width x height; of volumes x depth (default: 480x360 or 64x64x64)."
        ),
    ] = None,
    in_channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 3,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    option: opt.Options = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the stages into this SVG file.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the receptive field by gradients, on --size; takes seconds.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show a model stage by stage: size, channels, stride, receptive field, parameters, cost."""
    given = None if size is None else opt.parse_sides(size, "--size")
    pairs = opt.parse_pairs(option)
    from perpixel.models import create_model
    from perpixel.models.describe import describe as describe_model

    net = create_model(model, in_channels=in_channels, num_classes=classes, **pairs)
    is_volume = getattr(net, "spatial_dims", 2) == 3
    if measure and is_volume:
        raise InputError(f"--measure with {model}: receptive fields are measured on images only: leave it out")
    sides = given or ((64, 64, 64) if is_volume else (480, 360))
    width, height = sides[:2]
    description = describe_model(net, in_channels=in_channels, size=sides[::-1])
    document = description.to_json()
    if svg is not None:
        _write_svg(svg, description.to_svg(model))
        document["svg"] = svg
    if measure:
        from perpixel.models.receptive_field import measured_receptive_field

        document["measured"] = measured_receptive_field(net, in_channels=in_channels, size=(height, width)).to_json()
    if as_json:
        return print_document(document)
    console = screens.make_console()
    deep = f" and {sides[2]} deep" if is_volume else ""
    wide = f"{width} wide{',' if deep else ' and'} {height} high{deep}"
    console.print(f"{model}, {in_channels} channels of {wide}, {classes} classes", style="bold")
    screens.show_description(console, document)
    made = [] if svg is None else [("drawing", svg)]
    screens.end(console, made, [screens.command("perpixel", "train", "DATA", "--model", model, "--budget", "10m")])


def compare(
    context: typer.Context,
    data: opt.OptionalData = None,
    models: opt.Models = None,
    budget: opt.EachBudget = None,
    epochs: opt.Epochs = None,
    resume: opt.ResumeComparison = None,
    retry: opt.Retry = False,
    option: opt.ModelOptions = None,
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
    split: Annotated[str, typer.Option(help="Which images to judge by: test, val or train.")] = "test",
    out: opt.Out = None,
    seed: opt.Seed = None,
    as_json: opt.AsJson = False,
) -> None:
    """Train several models with the same budget and judge them side by side."""
    own = ("resume", "retry", "as_json", "option", "crop")
    settings = opt.chosen({name: value for name, value in context.params.items() if name not in own})
    if option:
        settings["options"] = opt.parse_pairs(option)
    if crop is not None:
        settings["crop"] = opt.parse_crop(crop)
    if resume is not None:
        settings.pop("split")
        opt.refuse_with_resume(settings, "the comparison's")
    elif data is None or models is None:
        missing = "DATA" if data is None else "--models"
        raise InputError(f"{missing} is missing: give DATA and --models A,B or --models all, or --resume DIR")
    from perpixel.apps.compare import compare as compare_models

    with progress_events() as on_event:
        made = compare_models(**settings, resume=resume, retry=retry, on_event=on_event)
    if as_json:
        print_document({"path": made.path, "page": made.page, **made.document})
    else:
        console = screens.make_console()
        screens.show_comparison(console, made.document)
        path = screens.relative(made.path)
        screens.end(
            console,
            [
                ("comparison", path),
                ("page", f"{path}/compare.html (open it in a browser)"),
                ("table", f"{path}/compare.csv"),
            ],
            _next_commands(made),
        )
    if made.failed:
        raise typer.Exit(1)


def _next_commands(made: Any) -> list[str]:
    """Label images with the best model; try again what failed."""
    from perpixel.apps.compare_document import ranked

    best = next((row["run"] for row in ranked(made.document) if row["state"] == "done"), None)
    retry = [screens.command("perpixel", "compare", "--resume", made.path, "--retry")] if made.failed else []
    if best is None:
        return retry
    run = screens.relative(made.path / best)
    return [screens.command("perpixel", "predict", run, "IMAGES", "--out", "predictions"), *retry]


def explain(
    run: opt.Run,
    image: Annotated[Path, typer.Argument(help="Image file.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path("explain.html"),
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Classes whose maps are shown (default: the largest four).", show_default=False
        ),
    ] = None,
    pixel: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="Show what this pixel sees (default: one is chosen).", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Passes with dropout on (default: 10 where the net has dropout).", show_default=False),
    ] = None,
    seed: opt.Seed = None,
    device: opt.Device = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what a net sees on one image: scores, skips, feature maps, receptive field, doubts."""
    from perpixel.apps.explain import explain as explain_image

    settings = opt.chosen({"classes": classes, "samples": samples, "seed": seed, "device": device})
    if pixel is not None:
        settings["pixel"] = opt.parse_pixel(pixel, "--pixel")
    with progress_events() as on_event:
        made = explain_image(run, image, out=out, on_event=on_event, **settings)
    if as_json:
        return print_document({"page": made.page, **made.document})
    console = screens.make_console()
    screens.show_explanation(console, made.document)
    example = "{x},{y}".format(**made.document["pixel"])
    screens.end(
        console,
        [("page", f"{screens.relative(made.page)} (open it in a browser)")],
        [screens.command("perpixel", "explain", run, image, "--out", out, "--pixel", example)],
    )


def _write_svg(path: Path, text: str) -> None:
    if path.suffix.lower() != ".svg":
        name = path.parent / f"{path.stem or 'drawing'}.svg"
        raise InputError(f"--svg {path}: the drawing is an SVG file, name it {name}")
    write_text(path, text)


def import_weights(
    source: Annotated[str, typer.Argument(help="Whose weights: torchvision, smp or classifier.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(help="State dict (.pth, .safetensors); smp: folder of save_pretrained.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to make.", show_default=False)],
    classes: Annotated[
        str | None, typer.Option(help="A classes.json with their names, or their number.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With classifier: fcn32s, fcn16s, fcn8s or fcn8s_atonce.", show_default=False),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Turn a checkpoint of another library into a bundle, which every other command takes."""
    from perpixel.apps.import_weights import import_weights as make_bundle

    made = make_bundle(source, file, out=out, classes=classes, model=model)
    if as_json:
        return print_document(made)
    console = screens.make_console()
    console.print(
        f"{made.what}: {made.model} with {plural(len(made.classes), 'class', 'classes')}, "
        f"{format_large(made.parameters)} parameters",
        style="bold", soft_wrap=True,
    )  # fmt: skip
    for note in made.notes:
        console.print(note, soft_wrap=True)
    path = screens.relative(made.bundle)
    predict = screens.command("perpixel", "predict", path, "IMAGES", "--out", "predictions")
    train = screens.command("perpixel", "train", "DATA", "--start-from", path, "--budget", "10m")
    screens.end(console, [("bundle", path)], [predict, train] if made.is_trained else [train])
