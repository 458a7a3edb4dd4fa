"""Which loss finds the rare classes: the same net, plan, seeds and number of steps, one loss after the other.

    python benchmarks/rare_losses.py DATA --classes bicyclist,sign,pole --budget 10m --seeds 0,1,2 --out DIR

The plan is made once, with plain cross entropy on one thread; every run then takes the number of steps that it found to
fit the budget, so that neither a busy machine nor the seconds of a loss decide. What is done in DIR is kept: the same
call goes on, and several calls may share DIR, each with other --seeds or --ways. Printed: test IoU of the classes,
their mean, and mIoU, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from perpixel.apps.api import evaluate
from perpixel.apps.config import make_config, parse_duration
from perpixel.apps.training import Prepared, _write_start, finish_run, prepare_run
from perpixel.engine.run_folder import RunFolder
from perpixel.files import make_folder, read_json, write_json
from perpixel.planning import Line, Plan

# (loss, class weights)
WAYS = {
    "ce": ("ce", "none"),
    "ce, median frequency": ("ce", "median_frequency"),
    "ce+dice, sqrt inverse (the plan's)": ("ce+dice", "sqrt_inverse"),
    "focal": ("focal:gamma=2", "none"),
    "ce+lovasz": ("ce+lovasz", "none"),
    "ohem": ("ohem", "none"),
    "focal_tversky+ce": ("focal_tversky+ce", "none"),
}
LENGTH = ("steps", "coarse_steps", "validations", "max_validation")


def known_length(folder: Path, data: str, budget: str) -> dict[str, int]:
    """Steps of each kind that fit the budget; planned once and written down."""
    path = folder / "length.json"
    if not path.is_file():
        config = make_config(data=data, budget_s=parse_duration(budget), loss="ce", class_weights="none", threads=1)
        plan = prepare_run(config, on_event=lambda event: None).plan
        write_json(make_folder(folder) / "length.json", {name: plan[name] for name in LENGTH})
    return read_json(path)


def prepare(data: str, way: str, seed: int, length: dict[str, int]) -> Prepared:
    """The plan of a run with its length replaced; without a budget no clock shortens it."""
    loss, weights = WAYS[way]
    options, scale = {"width": 16}, 0.5
    config = make_config(
        data=data, model="unet", options=options, scale=scale, epochs=1, seed=seed, loss=loss, class_weights=weights,
        threads=1,
    )  # fmt: skip
    prepared = prepare_run(config, on_event=lambda event: None)
    lines = [
        Line(line.setting, length[line.setting], "the same for every loss") if line.setting in length else line
        for line in prepared.plan.lines
    ]
    return replace(prepared, plan=Plan(tuple(lines)))


def run_one(folder: Path, data: str, way: str, seed: int, length: dict[str, int]) -> None:
    slug = "".join(c if c.isalnum() else "_" for c in way)
    run = RunFolder(folder / f"{slug}-{seed}")
    if not run.config.is_file():
        run.create()
        _write_start(run, prepare(data, way, seed, length), spent_s=0.0)
    if not (run.bundle / "config.json").is_file():
        finish_run(run, on_event=lambda event: None)
    scores = run.path / "evaluation" / "test" / "scores.json"
    if not scores.is_file():
        evaluate(run.path, split="test")
    read = read_json(scores)
    result = {"way": way, "seed": seed, "miou": read["scores"]["miou"]}
    result["iou"] = {row["name"]: row["iou"] for row in read["per_class"]}
    write_json(make_folder(folder / "results") / f"{slug}-{seed}.json", result)
    print(way, seed, f"mIoU {result['miou']:.4f}", flush=True)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def show(folder: Path, classes: list[str]) -> None:
    rows = [read_json(path) for path in sorted((folder / "results").glob("*.json"))]
    print(f"| loss | seeds | {' | '.join(classes)} | their mean | mIoU |")
    print("| --- " * (len(classes) + 4) + "|")
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        if mine:
            cells = [spread([row["iou"][name] for row in mine]) for name in classes]
            mean = spread([statistics.mean(row["iou"][name] for name in classes) for row in mine])
            print(f"| {way} | {len(mine)} | {' | '.join(cells)} | {mean} | {spread([row['miou'] for row in mine])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--classes", default="bicyclist,sign,pole")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default=None, help="some of the losses, as 0:3; default all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    length = known_length(options.out, options.data, options.budget)
    first, last = (options.ways or f"0:{len(WAYS)}").split(":")
    for seed in map(int, options.seeds.split(",")):
        for way in list(WAYS)[int(first) : int(last)]:
            run_one(options.out, options.data, way, seed, length)
    show(options.out, options.classes.split(","))


if __name__ == "__main__":
    main()
