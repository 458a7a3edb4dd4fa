"""Plans: what was given stands, what was not has a reason, and the budget chooses the net."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perpixel.data import Fingerprint
from perpixel.labels import ClassInfo, ClassTable
from perpixel.planning import (
    LabelFacts,
    Machine,
    Plan,
    has_normalisation,
    label_facts,
    make_plan,
    seconds_per_megapixel,
    training_bytes,
)
from perpixel.planning.crops import FEW_STEPS, MEMORY_SHARES
from perpixel.planning.net import MIN_PASSES, Candidate, Costs
from perpixel.planning.rehearsal import SIDE

ROADS = Fingerprint(
    format="pairs",
    num_images={"train": 367, "val": 101, "test": 233},
    sizes={"min": [360, 480], "median": [360, 480], "max": [360, 480]},
    channels=3,
    dtype="uint8",
    value_low=[0.0] * 3,
    value_high=[255.0] * 3,
    value_min=[0.0] * 3,
    value_max=[255.0] * 3,
    mean=[102.0] * 3,
    std=[76.5] * 3,
    class_names=["road", "pole"],
    class_pixels={"train": [990, 10]},
    ignored_pixels={"train": 0},
    class_images={"train": [367, 200]},
    imbalance=99.0,
    groups=0,
    digest="0" * 64,
)
UPRIGHT = LabelFacts(0.6, 0.02, {0.75: 0.95, 0.5: 0.9, 0.375: 0.85, 0.25: 0.5})
ROUND = LabelFacts(0.01, 0.02, {0.75: 0.95, 0.5: 0.9, 0.375: 0.85, 0.25: 0.8})
CPU = Machine("cpu", "a CPU", has_bf16=False)


def plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "machine": CPU,
        "given": {},
        "budget_s": 600.0,
        "epochs": None,
        "measure": lambda model, options, side, hopeless: 2.2 if side == SIDE else 4.4,
        "is_normalised": lambda model, options: model != "fcn8s",
    }
    facts = changes.pop("facts", UPRIGHT)
    data = changes.pop("data", ROADS)
    return make_plan(data, facts, **{**values, **changes})


def test_every_line_has_a_reason_and_survives_json() -> None:
    made = plan()
    assert all(line.reason for line in made.lines)
    assert Plan.from_json(made.to_json()) == made
    assert len({line.setting for line in made.lines}) == len(made.lines)


def test_a_longer_budget_works_at_a_larger_scale() -> None:
    scales = [plan(budget_s=budget)["scale"] for budget in (60.0, 600.0, 3000.0, 30000.0)]
    assert scales == sorted(scales) and scales[0] < scales[-1] == 1.0
    # 0.25 is never chosen here: label maps do not survive it.
    assert scales[0] == 0.375


def test_passes_by_hand() -> None:
    # 2.2 s a megapixel, 0.0432 megapixels at half scale: 0.095 s an image, 367 images, 552 s of steps: 15.8 passes;
    # at 0.75 crops of 256x256 take 0.144 s: 10.4 passes.
    made = plan()
    assert made["scale"] == 0.5
    assert 600 * 0.92 / (2.2 * 0.0432) / 367 > MIN_PASSES > 600 * 0.92 / (2.2 * 0.0655) / 367
    step_s = 2.2 * 0.0432 * 4
    # Half the sides are a quarter of the pixels at twice the price: half a step.
    assert made["coarse_steps"] == int(0.5 * 552 / (0.5 * step_s))
    assert made["steps"] == made["coarse_steps"] + int((552 - made["coarse_steps"] * 0.5 * step_s) / step_s)


def test_given_settings_stand() -> None:
    made = plan(
        given={"model": "fcn8s", "scale": 0.75, "batch_size": 3, "loss": "focal", "options": {"fc_channels": 64}}
    )
    assert (made["model"], made["scale"], made["batch_size"], made["loss"]) == ("fcn8s", 0.75, 3, "focal")
    assert made["options"] == {"fc_channels": 64}
    assert [line.reason for line in made.lines if line.setting == "loss"] == ["given"]


def test_own_width_is_kept_and_only_the_scale_chosen() -> None:
    made = plan(given={"model": "unet", "options": {"width": 16}})
    assert made["options"] == {"width": 16} and made["scale"] == 0.5


def test_weights_without_a_backbone_get_one() -> None:
    made = plan(given={"model": "unet", "options": {"weights": "imagenet"}})
    assert made["options"] == {"encoder": "resnet34", "weights": "imagenet"}


@pytest.mark.parametrize("option", [{"head_stride": 2}, {"decoder_channels": (64, 32, 16, 8, 8)}])
def test_options_of_backbones_get_one(option: dict[str, Any]) -> None:
    assert plan(given={"model": "unet", "options": option})["options"] == {"encoder": "resnet34", **option}


def test_coarse_steps_must_save_something() -> None:
    dear = plan(measure=lambda model, options, side, hopeless: 2.2 if side == SIDE else 6.0)
    small = plan(given={"crop": [96, 240]})
    assert dear["coarse_steps"] == small["coarse_steps"] == 0 < plan()["coarse_steps"]


def test_passes_count_pixels() -> None:
    # At full size crops of 256x256 show 0.38 of an image of 480x360.
    costs = Costs(lambda *_: 1.0, (360, 480), 256**2, images=10, training_s=65.536, devices=1, batch_size=4)
    assert costs.steps("unet", Candidate({}, 1.0)) == pytest.approx(250)
    assert costs.passes("unet", Candidate({}, 1.0)) == pytest.approx(100 * 65536 / 172800)
    assert costs.passes("unet", Candidate({}, 0.5)) == pytest.approx(65.536 / 0.0432 / 10)


def test_epochs_fix_the_steps() -> None:
    made = plan(budget_s=None, epochs=3)
    assert (
        made["steps"] == -(-3 * 367 // 4)
        and made["coarse_steps"] == 0
        and made["budget_s"] is None
        and made["max_validation"] is None
    )


def test_an_upright_forbids_turns() -> None:
    road, cells = plan().augmentation(), plan(facts=ROUND).augmentation()
    assert not road.flip_vertical and not road.quarter_turns and road.flip_horizontal and road.elastic_px == 0
    assert cells.flip_vertical and cells.quarter_turns and cells.elastic_px > 0


def test_an_offset_is_kept_where_it_costs() -> None:
    made = plan(facts=replace(ROUND, offset=(-0.5, 0.1), offset_cost=(0.05, 0.005)))
    line = next(line for line in made.lines if line.setting == "label_offset")
    assert line.value == [-0.5, 0.1] and "0.50 px above and 0.10 px right" in line.reason
    assert plan(facts=replace(ROUND, offset=(-0.5, 0.1), offset_cost=(0.009, 0.0)))["label_offset"] == [0.0, 0.0]


def test_precision_follows_the_machine() -> None:
    assert plan()["precision"] == "fp32"
    assert plan(machine=replace(CPU, has_bf16=True))["precision"] == "bf16"


def test_weights_are_one_for_the_average_pixel() -> None:
    weights = np.array(plan()["class_weight_values"])
    assert (weights * [0.99, 0.01]).sum() == pytest.approx(1.0)
    assert weights[1] > weights[0]
    assert plan(data=replace(ROADS, imbalance=2.0))["class_weights"] == "none"


def reason(made: Plan, setting: str) -> str:
    return next(line.reason for line in made.lines if line.setting == setting)


def test_images_of_rare_classes_come_more_often() -> None:
    made = plan(data=replace(ROADS, class_images={"train": [367, 12]}))
    assert made["repeat_threshold"] == 0.1
    # sqrt(0.1 * 367 / 12) = 1.75
    assert "'pole' in 12 of 367" in reason(made, "repeat_threshold") and "1.7 times" in reason(made, "repeat_threshold")
    assert plan()["repeat_threshold"] == 0 and "no class" in reason(plan(), "repeat_threshold")
    never = plan(data=replace(ROADS, class_images={"train": [367, 0]}))
    assert never["repeat_threshold"] == 0, "a class in no image is not rare but absent"
    given = plan(data=replace(ROADS, class_images={"train": [367, 12]}), given={"repeat_threshold": 0.0})
    assert given["repeat_threshold"] == 0 and reason(given, "repeat_threshold") == "given"


def test_crops_are_placed_on_classes_where_these_are_uneven() -> None:
    uneven, even = plan(), plan(data=replace(ROADS, imbalance=2.0))
    assert (uneven["rare_share"], uneven["rare_power"]) == (0.33, 0.0)
    assert even["rare_share"] == even["rare_power"] == 0


def test_the_binary_loss_has_weights_of_its_own() -> None:
    made = plan(given={"loss": "bce+dice"})
    assert made["class_weights"] == "none" and "by 99" in reason(made, "class_weights")
    assert plan(given={"loss": "bce", "class_weights": "enet"})["class_weights"] == "enet"


def test_sixteen_bit_takes_percentiles() -> None:
    data = replace(ROADS, dtype="uint16", channels=1, value_low=[100.0], value_high=[1100.0], mean=[600.0], std=[250.0])
    normalisation = plan(data=data).normalisation()
    assert (normalisation.low, normalisation.high) == ((100.0,), (1100.0,))
    assert normalisation.mean == (0.5,) and normalisation.std == (0.25,)


def test_label_facts_by_hand() -> None:
    table = ClassTable((ClassInfo("a", (0, 0, 0), (0,)), ClassInfo("b", (9, 9, 9), (1,))))
    halves = np.zeros((40, 40), np.uint8)
    halves[20:] = 1
    facts = label_facts([(halves, halves)], table)
    assert facts.vertical == 1.0 and facts.horizontal == 0.0
    assert facts.ceiling[0.5] == 1.0
    stripes = np.zeros((40, 40), np.uint8)
    stripes[:, ::2] = 1  # one pixel wide: gone at half scale
    assert label_facts([(stripes, stripes)], table).ceiling[0.5] < 0.6


def test_nets_without_normalisation_learn_more_slowly() -> None:
    assert plan()["learning_rate"] == 2e-3
    assert plan(given={"model": "fcn8s"})["learning_rate"] == 2e-4
    assert has_normalisation("unet", {"width": 2}) and not has_normalisation("unet", {"width": 2, "norm": False})
    assert not has_normalisation("fcn8s", {"weights": "imagenet"})


def test_rehearsal_measures_something() -> None:
    small, large = (
        seconds_per_megapixel(
            "unet", {"width": width, "depth": 3}, in_channels=1, num_classes=2, device="cpu", precision="fp32"
        )
        for width in (2, 32)
    )
    assert 0 < small < large


def test_a_slow_net_is_timed_once() -> None:
    timed: list[float] = []

    def measure(model: str, options: dict[str, Any], side: int, hopeless: float) -> float:
        timed.append(hopeless)
        return 50.0

    costs = Costs(measure, (360, 480), 256**2, images=367, training_s=100.0, devices=1, batch_size=4)
    for scale in (1.0, 0.75, 0.5, 0.25):
        assert costs.steps("fcn8s", Candidate({}, scale)) < 500
    assert len(timed) == 1, "50 s a megapixel are too many at every scale"
    assert costs.megapixel_s("fcn8s", {}) == 50.0 and len(timed) == 2, "the exact figure is asked for by itself"


def test_few_steps_make_the_batch_smaller() -> None:
    slow = plan(budget_s=60.0, measure=lambda *_: 20.0)
    # 55.2 s of steps, each 0.375 x 0.375 x 0.1728 megapixels x 4 images x 20 s = 1.94 s: 28 steps, and twice as many.
    assert slow["batch_size"] == 2 and slow["steps"] >= 2 * 28
    assert next(line.reason for line in slow.lines if line.setting == "batch_size").startswith("only about 28 steps")
    assert plan()["batch_size"] == 4 and plan()["steps"] > FEW_STEPS
    assert plan(budget_s=60.0, measure=lambda *_: 20.0, given={"batch_size": 3})["batch_size"] == 3


def test_small_crops_are_timed_by_themselves() -> None:
    sides: list[int] = []

    def measure(model: str, options: dict[str, Any], side: int, hopeless: float) -> float:
        sides.append(side)
        return 1.0 if side == SIDE else 8.0

    made = plan(given={"crop": [64, 100], "model": "fcn8s"}, measure=measure)
    assert 80 in sides, "the square with as many pixels"
    assert made["steps"] == int(552 / (8.0 * 0.0064 * 4))


def test_crops_and_batches_fit_the_memory() -> None:
    def takes(model: str, options: dict[str, Any], size: tuple[int, int], batch_size: int) -> float:
        return 1000.0 * size[0] * size[1] * batch_size

    whole = plan()
    assert whole["crop"] == [180, 240] and whole["batch_size"] == 4
    full = 1000 * 180 * 240 * 4
    enough = replace(CPU, memory_bytes=int(full / MEMORY_SHARES["cpu"]) + 1)
    assert plan(machine=enough, memory=takes).lines == whole.lines
    half = replace(CPU, memory_bytes=int(full / 2 / MEMORY_SHARES["cpu"]) + 1)
    made = plan(machine=half, memory=takes)
    assert made["batch_size"] == 2 and made["crop"] == [180, 240]
    reasons = {line.setting: line.reason for line in made.lines}
    assert "4 of 180x240 would take about 0.2 GB of memory" in reasons["batch_size"]
    assert "memory" not in reasons["crop"], "the crop is as it was"
    little = plan(machine=replace(half, memory_bytes=half.memory_bytes // 2), memory=takes)
    assert little["batch_size"] == 2 and little["crop"] == [96, 128]
    given = {"crop": [180, 240], "batch_size": 4}
    assert plan(machine=half, memory=takes, given=given)["crop"] == [180, 240], "what was given stands"
    # 128x176 would still be 4 % too much.
    assert plan(machine=half, memory=takes, given={"batch_size": 4})["crop"] == [96, 128]


def test_memory_of_a_step_counts_maps_and_weights() -> None:
    """Twice the images or the pixels: twice the maps; weights come on top, once."""

    def takes(batch_size: int, size: tuple[int, int] = (64, 64), precision: str = "fp32", **options: Any) -> float:
        return training_bytes(
            "unet",
            {"width": 4, "depth": 3, **options},
            in_channels=3,
            num_classes=2,
            size=size,
            batch_size=batch_size,
            precision=precision,
        )

    one, two, four = takes(1), takes(2), takes(4)
    assert four - two == pytest.approx(2 * (two - one))
    assert takes(1, (128, 128)) == pytest.approx(four, rel=0.05)
    maps = two - one
    assert one - maps == pytest.approx(5 * 4 * 7_542, rel=0.02), (
        "weights, average, gradient and two moments, 4 bytes each"
    )
    assert takes(2, precision="bf16") - takes(1, precision="bf16") == pytest.approx(0.6 * maps)
    assert takes(1, width=8) > 1.9 * one
