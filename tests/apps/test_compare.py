"""Comparisons: what is asked for is checked first, what is done is kept, what fails harms nobody, the page is whole."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perpixel
from perpixel.apps import compare_steps, compare_worker
from perpixel.apps.cli import main
from perpixel.apps.compare import Comparison
from perpixel.apps.compare_document import ranked
from perpixel.apps.compare_page import _unbeaten, render
from perpixel.apps.compare_settings import Entry, parse_entries
from perpixel.data.synthetic import write_demo
from perpixel.errors import InputError

TINY = {"width": 2, "depth": 2, "wide.width": 4}
MODELS = "unet,wide=unet"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("place") / "cells", num_train=4, num_val=2, num_test=3, size=(32, 32))


def compare(data: Path, out: Path, **settings: Any) -> Comparison:
    values: dict[str, Any] = {"models": MODELS, "epochs": 2, "options": TINY, "isolated": False, **settings}
    return perpixel.compare(data, out=out, **values)


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two models that work, and one whose weights are not there."""
    broken = {"broken.encoder": "mobilenetv3_small_050", "broken.weights": "missing.safetensors"}
    out = tmp_path_factory.mktemp("compared") / "all"
    return compare(data, out, models=f"{MODELS},broken=unet", options={**TINY, **broken})


def rows_of(made: Comparison) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in made.document["models"]}


# ---- what is asked for ---------------------------------------------------------------------------------------------


def test_options_for_all_and_for_one() -> None:
    entries = parse_entries(["unet", "thin=unet, fcn32s"], {"depth": 4, "thin.depth": 2, "fcn32s.fc_channels": 16})
    assert entries == (
        Entry("unet", "unet", {"depth": 4}),
        Entry("thin", "unet", {"depth": 2}),
        Entry("fcn32s", "fcn32s", {"fc_channels": 16}),
    )


def test_all_is_every_model_of_images() -> None:
    from perpixel.models import MODELS as KNOWN
    from perpixel.models import spatial_dims

    everything = [entry.model for entry in parse_entries("all", {})]
    assert everything == [name for name, each in KNOWN.items() if spatial_dims(each) == 2]
    assert set(KNOWN) - set(everything) == {"vnet", "vnet_release", "vnet_monai", "unet3d", "unet3d_valid"}
    assert parse_entries("all,thin=unet", {"thin.width": 2})[-1] == Entry("thin", "unet", {"width": 2})


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ("", {}, "no models to compare"),
        ("unet,uned", {}, r"unknown model 'uned'; did you mean 'unet3d'\?"),
        ("unet,unet", {}, "'unet' is named twice: give one of the two a label"),
        ("a/b=unet", {}, "label 'a/b' of 'a/b=unet': give letters"),
        ("pictures=unet", {}, "label 'pictures'"),
        ("unet", {"widht": 3}, r"option 'widht': none of the models has it; did you mean 'width'\?"),
        ("unet", {"thin.width": 3}, "option 'thin.width': no model is called 'thin' here"),
    ],
)
def test_what_makes_no_sense(models: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_entries(models, options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"wide.frob": 1}}, "wide: unknown option 'frob' of model 'unet'"),
        ({"options": {"width": 0}}, "unet: option width=0"),
        ({"models": "unet,fcnn8s"}, "unknown model 'fcnn8s'"),
        ({"loss": "frob"}, "frob"),
        ({"budget": "10m"}, "budget 10m and epochs 2 were both given"),
        ({"frob": 1}, "frob"),
        ({"split": "holiday"}, "split 'holiday' does not exist"),
    ],
)
def test_refused_before_anything_is_trained(
    settings: dict[str, Any], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_worker, "perform", lambda *a, **k: pytest.fail("a model was trained"))
    with pytest.raises(InputError, match=message):
        compare(data, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "settings.json").exists()


def test_a_folder_of_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds other files than a comparison \(mine.txt\): choose another --out"):
        compare(data, tmp_path)
    with pytest.raises(InputError, match=r"no comparison is here \(no settings.json\)"):
        perpixel.compare(resume=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, "a comparison with seed 0 is here, not 1: go on with it by perpixel compare --resume"),
        ({"epochs": 3}, "a comparison with epochs 2 is here, not 3"),
        ({"loss": "ce"}, "a comparison with loss left open is here, not ce"),
        ({"models": "unet", "options": {"width": 2, "depth": 2}}, "models unet, wide, broken is here, not unet"),
        ({"options": {"width": 2, "depth": 2, "wide.width": 8}}, r"the options of wide {.*4.*} is here, not {.*8.*}"),
    ],
)
def test_other_settings_in_the_same_folder(made: Comparison, settings: dict[str, Any], message: str) -> None:
    broken = {"broken.encoder": "mobilenetv3_small_050", "broken.weights": "missing.safetensors"}
    values = {"models": f"{MODELS},broken=unet", "options": TINY, **settings}
    if "broken" in values["models"]:
        values["options"] = {**values["options"], **broken}
    with pytest.raises(InputError, match=message):
        compare(Path(made.document["data"]), made.path, **values)


def test_a_resumed_comparison_keeps_its_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data, budget, loss: cannot be given with resume, which keeps the comparison"):
        perpixel.compare("x", budget="5m", loss="ce", resume=tmp_path)


def test_settings_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"theme": "dark"}')
    with pytest.raises(InputError, match=r"settings.json: not the settings of a comparison"):
        perpixel.compare(resume=tmp_path)


def test_labels_in_saved_settings_never_lead_elsewhere(tmp_path: Path) -> None:
    entry = {"label": "../elsewhere", "model": "unet", "options": {}}
    saved = {"data": ".", "models": [entry], "split": "test", "reading": {}, "training": {}}
    (tmp_path / "settings.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"settings.json: model .*elsewhere.* is none that compare wrote"):
        perpixel.compare(resume=tmp_path)


def test_data_that_changed_on_the_way_are_refused(data: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "cells", tmp_path / "out"
    shutil.copytree(data, mine)
    compare(mine, out, models="unet", options={"width": 2, "depth": 2})
    mask = next(path for path in sorted(mine.rglob("*.png")) if "mask" in str(path))
    mask.write_bytes(mask.read_bytes() + b" ")
    assert compare(mine, out, models="unet", options={"width": 2, "depth": 2}).failed == []  # nothing is to be done
    with pytest.raises(InputError, match="files of the data set have changed since this comparison began"):
        compare(mine, out, models=MODELS, options=TINY)


def test_a_folder_that_cannot_be_written_to(data: Path, tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # permissions do not stop every user that runs tests
    with pytest.raises(InputError, match=r"\.lock: cannot be written"):
        compare(data, tmp_path)


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_everything_is_in_the_document(made: Comparison, data: Path) -> None:
    rows = rows_of(made)
    assert [row["state"] for row in rows.values()] == ["done", "done", "failed"]
    assert made.failed == ["broken"] and "missing.safetensors" in rows["broken"]["reason"]
    for row in (rows["unet"], rows["wide"]):
        scores = json.loads((made.path / row["run"] / "evaluation" / "test" / "scores.json").read_text())
        assert row["scores"] == scores["scores"] and row["num_images"] == 3
        assert row["intervals"]["miou"][0] <= row["scores"]["miou"] <= row["intervals"]["miou"][1]
        assert row["steps"] == 2 and row["images_seen"] == 2 * row["plan"]["batch_size"] == 8
        assert row["speed"]["ms"] > 0 and row["speed"]["passes"] >= 3
        assert row["speed"]["megapixels_per_s"] == pytest.approx(32 * 32 / 1e3 / row["speed"]["ms"], rel=0.01)
        assert row["curve"][-1][1] == 2 and len(row["per_class"]) == 3
    assert rows["unet"]["parameters"] < rows["wide"]["parameters"]
    assert rows["unet"]["multiply_adds"] < rows["wide"]["multiply_adds"]
    assert json.loads((made.path / "compare.json").read_text()) == made.document


def test_all_models_had_the_same_images(made: Comparison) -> None:
    splits = {(made.path / label / "splits.json").read_text() for label in ("unet", "wide")}
    assert splits == {(made.path / "splits.json").read_text()}


def test_the_table_as_a_file(made: Comparison) -> None:
    with open(made.path / "compare.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [row["label"] for row in ranked(made.document)]
    assert rows[2]["state"] == "failed" and "missing.safetensors" in rows[2]["reason"] and rows[2]["miou"] == ""
    first = rows_of(made)[rows[0]["label"]]
    assert float(rows[0]["miou"]) == first["scores"]["miou"] and json.loads(rows[0]["options"])["depth"] == 2
    assert float(rows[0]["iou cell"]) == next(each["iou"] for each in first["per_class"] if each["name"] == "cell")


def test_the_page_is_whole_and_asks_for_nothing(made: Comparison) -> None:
    text = made.page.read_text(encoding="utf-8")
    for heading in ("Side by side", "Not finished", "What quality costs", "Learning", "Every class", "The same images"):
        assert f"<h2>{heading}" in text
    assert text.count("<svg") == 5
    pictures = made.document["pictures"]
    assert 1 <= len(pictures) <= 3 and all(set(each["predictions"]) == {"unet", "wide"} for each in pictures)
    assert text.count("data:image/jpeg") == len(pictures) and text.count("data:image/png") == 3 * len(pictures)
    assert "missing.safetensors" in text and f"{rows_of(made)['wide']['scores']['miou']:.3f}" in text
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "<script" not in text and "default-src 'none'" in text
    assert "<title>wide: mIoU" in text, "points of the charts tell what they are"


def test_names_are_text_never_markup(made: Comparison) -> None:
    evil = "<script>alert(1)</script>"
    document = json.loads(json.dumps(made.document))
    document["models"][0].update(label=evil, options={"x": evil})
    document["models"][2].update(reason=evil)
    document["classes"][0]["name"] = document["pictures"][0]["name"] = evil
    document["pictures"][0]["truth"] = "../../../../etc/passwd"
    text = render(made.path, document)
    assert "<script" not in text and "&lt;script&gt;" in text and text.count('class="missing"') >= 1


def test_a_page_of_many_models_that_are_not_done(made: Comparison) -> None:
    document = json.loads(json.dumps(made.document))
    for row in document["models"]:
        row.update(state="waiting", **dict.fromkeys(("scores", "speed", "curve", "per_class", "plan")))
    text = render(made.path, {**document, "pictures": [], "size": None})
    assert "No model is done yet" in text and text.count("waiting") == 3 and "<svg" not in text


def test_the_unbeaten() -> None:
    points = {"a": (1, 0.2), "b": (2, 0.5), "c": (3, 0.4), "d": (4, 0.6), "e": (4, 0.5)}
    rows = [{"label": label, "cost": cost, "score": miou} for label, (cost, miou) in points.items()]
    assert [row["label"] for row in _unbeaten(rows, "cost")] == ["a", "b", "d"]


def test_images_to_show(tmp_path: Path) -> None:
    scores = {"one": [0.9, 0.2, 0.5, 0.4, None], "two": [0.9, 0.1, 0.5, 0.8, 0.3]}
    for label, values in scores.items():
        path = tmp_path / label / "evaluation" / "test" / "per_image.csv"
        path.parent.mkdir(parents=True)
        lines = [f"{name},{'' if value is None else value}" for name, value in zip("abcde", values)]
        path.write_text("\n".join(["name,miou", *lines]))
    chosen = compare_steps.choose_images(tmp_path, ["one", "two"], "test")
    # Means: a 0.9, d 0.6, c 0.5, b 0.15; e has no score of one model, and d is both in the middle and disputed.
    assert [(why, name) for why, name, _ in chosen] == [
        ("easiest", "a"),
        ("typical", "c"),
        ("hardest", "b"),
        ("most disputed", "d"),
    ]


# ---- going on ------------------------------------------------------------------------------------------------------


def test_the_same_call_again_does_nothing_anew(made: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_worker, "perform", lambda *a, **k: pytest.fail("work was done again"))
    again = perpixel.compare(resume=made.path, isolated=False)
    assert [row["scores"] for row in again.document["models"][:2]] == [
        row["scores"] for row in made.document["models"][:2]
    ]


def stop_at(label: str, step: int) -> Callable[[dict[str, Any]], None]:
    """Ctrl-C, so to say, at a step of one model: nothing has been saved since the run began."""
    current = [""]

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "phase":
            current[0] = event["text"]
        if event["kind"] == "step" and current[0].startswith(label) and event["step"] == step:
            raise KeyboardInterrupt

    return on_event


def test_a_stopped_comparison_goes_on_and_takes_more_models(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match=r"go on with perpixel compare --resume .*out"):
        compare(data, out, on_event=stop_at("wide", 1))
    states = {row["label"]: row["state"] for row in json.loads((out / "compare.json").read_text())["models"]}
    assert states == {"unet": "done", "wide": "training"}
    finished = out / "unet" / "bundle" / "model.safetensors"
    stamp = finished.stat().st_mtime_ns
    events: list[dict[str, Any]] = []
    more = compare(data, out, models=f"{MODELS},third=unet", on_event=events.append)
    assert [row["state"] for row in more.document["models"]] == ["done", "done", "done"]
    assert finished.stat().st_mtime_ns == stamp, "a model that was done is not trained again"
    trained = {event["text"].split(" ")[0] for event in events if event.get("text", "").endswith(": Training")}
    assert trained == {"wide", "third"}
    assert {"unet", "wide", "third"} == set(json.loads((out / "measured.json").read_text())["speed"])


def test_a_model_without_memory_is_passed_over_and_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare_steps.train_and_judge

    def fail(folder: Path, label: str, **more: Any) -> dict[str, Any]:
        if label == "unet":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 64 GB")
        return whole(folder, label, **more)

    monkeypatch.setattr(compare_steps, "train_and_judge", fail)
    made = compare(data, tmp_path / "out", epochs=1)
    assert made.failed == ["unet"] and rows_of(made)["wide"]["state"] == "done"
    assert "out of memory" in rows_of(made)["unet"]["reason"]
    monkeypatch.setattr(compare_steps, "train_and_judge", whole)
    assert compare(data, tmp_path / "out", epochs=1).failed == ["unet"], "a failure is a result, too"
    assert compare(data, tmp_path / "out", epochs=1, retry=True).failed == []


def test_a_second_try_that_is_stopped_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: without a lock
    out, tried = tmp_path / "out", []

    def fail(folder: Path, what: str, *rest: Any, **more: Any) -> dict[str, Any]:
        tried.append(what)
        return {"state": "failed", "reason": "no reason"}

    def stop(*values: Any, **more: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_worker, "perform", fail)
    assert compare(data, out).failed == ["unet", "wide"]
    (out / "measured.json").write_text("{}")
    monkeypatch.setattr(compare_worker, "perform", stop)
    with pytest.raises(KeyboardInterrupt, match="go on with perpixel compare --resume"):
        compare(data, out, retry=True)
    assert not (out / "measured.json").exists(), "it was measured over other models"
    monkeypatch.setattr(compare_worker, "perform", fail)
    compare(data, out)
    assert tried == ["unet", "wide"] * 2, "the reasons of the first try are not those of the second"


def test_an_interruption_is_heard_though_the_work_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ({"state": "done"}, KeyboardInterrupt("saved"))
    monkeypatch.setattr(compare_worker, "_listen", lambda process, on_event: done)
    with open(tmp_path / "lock", "w") as lock, pytest.raises(KeyboardInterrupt, match="saved"):
        compare_worker.perform(tmp_path, "unet", lambda event: None, lock=lock.fileno())


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DATA is missing: give DATA and --models A,B or --models all, or --resume DIR"),
        (["x"], "--models is missing"),
        (["x", "--models", "uned"], "unknown model 'uned'; did you mean 'unet3d'?"),
        (["--resume", "r", "--budget", "5m"], "--budget: cannot be given with --resume, which keeps the comparison's"),
        (["--resume", "none"], "none: no comparison is here"),
        (["none", "--models", "unet"], "none: no such file or folder"),
    ],
)
def test_wrong_usage(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    output = capsys.readouterr()
    assert output.out == "" and message in output.err.splitlines()[-1]


def test_screen_and_json_of_a_comparison_with_a_failure(made: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--resume", str(made.path)]) == 1
    text = capsys.readouterr().out
    assert "broken: failed" in text and "compare.html" in text and "--retry" in text
    assert f"{rows_of(made)['unet']['scores']['miou']:.3f}" in text
    assert main(["compare", "--resume", str(made.path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["models"][2]["state"] == "failed"


def process_of(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "perpixel.apps.cli", "compare", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def steps_logged(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_text().count('"kind": "step"') if log.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_killed_command_leaves_no_process_and_the_same_command_ends_it(
    kill: signal.Signals, code: int, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [str(data), "--models", MODELS, "--budget", "8s", "--out", str(out)]
    words += ["-O", "width=2", "-O", "depth=2", "-O", "wide.width=3"]
    first = process_of(*words)
    wait_for(lambda: steps_logged(out / "wide") > 3)
    first.send_signal(kill)
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == code
    if kill != signal.SIGKILL:
        assert "go on with perpixel compare --resume" in errors.splitlines()[-1]
    wait_for(lambda: (out / "wide" / "checkpoints" / "last.safetensors").is_file(), 30)
    done = json.loads((out / "results" / "unet.json").read_text())
    second = process_of(*words, "--json")
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    document = json.loads(output)
    assert [row["state"] for row in document["models"]] == ["done", "done"]
    assert document["models"][0]["scores"] == done["scores"]
    log = [json.loads(line) for line in (out / "wide" / "log.jsonl").read_text().splitlines()]
    assert any(event["kind"] == "resume" for event in log), "the model in progress was resumed, not begun again"


@pytest.mark.slow
def test_a_process_that_the_system_ends_is_a_failed_model(data: Path, tmp_path: Path) -> None:
    """SIGKILL for the process of one model, as when the memory is full: the others go on."""
    out = tmp_path / "out"
    killed: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and not killed:
            children = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
            )
            mine = next(line for line in children.stdout.splitlines() if "compare_worker" in line)
            killed.append(int(mine.split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    made = compare(data, out, isolated=True, epochs=40, on_event=on_event)
    assert made.failed == ["unet"] and "ended by the system (SIGKILL)" in rows_of(made)["unet"]["reason"]
    assert rows_of(made)["wide"]["state"] == "done" and rows_of(made)["wide"]["speed"]["ms"] > 0
