"""The command line: exit codes, one-line errors, pure JSON, quick help. The API is replaced by stubs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import perpixel
from perpixel.apps import cli
from perpixel.errors import InputError

VERBS = ("demo", "check", "plan", "train", "evaluate", "predict", "report", "models", "describe", "compare")
FakeRun = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


class Api:
    """Notes how each function was called, sends an event or two, and answers like the real one."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.failure: BaseException | None = None

    def answer(self, verb: str, result: Any) -> Callable[..., Any]:
        def call(*arguments: Any, on_event: Any = None, **settings: Any) -> Any:
            self.calls[verb] = (arguments, settings)
            if on_event is not None:
                on_event({"kind": "phase", "text": f"{verb} is working"})
            if self.failure is not None:
                raise self.failure
            return result

        return call


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, fake_run: FakeRun) -> Api:
    from perpixel.apps import api as real

    run = fake_run()
    scores = json.loads((run / "evaluation" / "test" / "scores.json").read_text())
    metrics = {"step": 380, "steps": 400, "seconds": 575.0, "miou": 0.61, "pixel_accuracy": 0.8, "iou": {"sky": 0.9}}
    line = SimpleNamespace(setting="crop", value=[256, 256], reason="it fits")
    results = {
        "train": SimpleNamespace(path=run, bundle=run / "bundle", metrics=metrics),
        "resume": SimpleNamespace(path=run, bundle=run / "bundle", metrics=metrics),
        "evaluate": SimpleNamespace(path=run / "evaluation" / "test", scores=scores),
        "predict": SimpleNamespace(out=Path("masks"), written=["a", "b"], skipped=["c"], crf=None),
        "plan": SimpleNamespace(lines=(line,)),
        "check": check_result(json.loads((run / "fingerprint.json").read_text())),
    }
    stub = Api()
    for verb, result in results.items():
        monkeypatch.setattr(real, verb, stub.answer(verb, result))
    return stub


def check_result(fingerprint: dict[str, Any], *, severity: str = "warning") -> Any:
    problem = {
        "severity": severity,
        "code": "x",
        "file": "a\x1b.png",
        "message": "value 12",
        "count": 3,
        "remedy": "mend it",
    }
    problems = (SimpleNamespace(**problem),)
    return SimpleNamespace(
        fingerprint=SimpleNamespace(**{"spatial_dims": 2, "volumes": None, "instances": None, **fingerprint}),
        problems=problems,
        errors=tuple(p for p in problems if p.severity == "error"),
        to_json=lambda: {"fingerprint": fingerprint, "problems": [problem]},
    )


def run_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perpixel.apps.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


# ---- help ----------------------------------------------------------------------------------------------------------


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import json, sys, perpixel.apps.cli; print(json.dumps(list(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "scipy", "cv2", "PIL", "matplotlib", "jinja2"} & set(json.loads(process.stdout))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_takes_json(verb: str, capsys: Captured) -> None:
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text and "Usage: perpixel" in text


def test_help_lists_the_verbs(capsys: Captured) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{perpixel.__version__}\n"


# ---- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frob"], "No such command 'frob'"),
        (["check"], "Missing argument"),
        (["check", "x", "--frob"], "No such option"),
        (["train", "x", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["train"], "DATA is missing: give a folder of images and masks, or --resume RUN"),
        (["train", "x", "--extend", "5m"], "--extend '5m': works with --resume RUN only"),
        (
            ["train", "--resume", "r", "--lr", "1", "--batch-size", "2"],
            "--lr, --batch-size: cannot be given with --resume",
        ),
        (["train", "x", "--resume", "r"], "DATA: cannot be given with --resume"),
        (["train", "x", "--crop", "256"], "--crop '256': not a size: write HEIGHTxWIDTH"),
        (["train", "x", "-O", "width"], "-O 'width': no key=value"),
        (["train", "x", "--encoder", "a", "-O", "encoder=b"], "--encoder a and -O encoder=b: keep one of them"),
        (["describe", "unet", "--size", "big"], "--size 'big': not a size: write WIDTHxHEIGHT"),
        (["report", "no/such/run"], "no/such/run: no such run folder: check the path"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: list[str], message: str, capsys: Captured) -> None:
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("perpixel: error: ") and message in output.err
    assert output.err.count("\n") == 1


class NonFiniteLossError(RuntimeError):
    """Stands for the engine's: the command line knows it by name."""


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (InputError("data: no pairs:\n give a folder"), 2, "error: data: no pairs: give a folder"),
        (NonFiniteLossError("step 7: loss nan"), 1, "failed: step 7: loss nan"),
        (OutOfMemoryError("CUDA out of memory"), 1, "failed: out of memory (CUDA out of memory): use a smaller"),
        (MemoryError(), 1, "failed: out of memory"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "internal failure (ZeroDivisionError: division by zero): this is a fault",
        ),
        (KeyboardInterrupt("stopped by SIGINT, saved in runs/x"), 130, "stopped by SIGINT, saved in runs/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_are_one_line_without_traceback(
    api: Api, failure: BaseException, code: int, message: str, capsys: Captured
) -> None:
    api.failure = failure
    assert cli.main(["train", "data", "--json"]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[0] == "train is working"
    assert f"perpixel: {message}" in output.err and "Traceback" not in output.err
    assert len(output.err.splitlines()) == 2


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_debug_shows_the_traceback(api: Api, place: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    api.failure = ZeroDivisionError("oh")
    words = {"before": ["--debug", "train", "x"], "after": ["train", "x", "--debug"], "environment": ["train", "x"]}[
        place
    ]
    if place == "environment":
        monkeypatch.setenv("PERPIXEL_DEBUG", "1")
    assert cli.main(words) == 1
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_is_an_interruption(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    from perpixel.apps import api as real

    monkeypatch.setattr(real, "check", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["check", "data"]) == 130
    assert capsys.readouterr().err == "perpixel: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    code = f"{sys.executable} -c 'import sys; from perpixel.apps.cli import main; sys.exit(main([\"--help\"]))' | true"
    process = subprocess.run(["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in process.stderr and process.returncode in (0, 1)


def test_exit_codes_of_the_process(tmp_path: Path) -> None:
    process = run_process("report", str(tmp_path / "none"))
    assert process.returncode == 2 and process.stdout == "" and process.stderr.count("\n") == 1


def test_an_odd_name_on_an_ascii_terminal(tmp_path: Path) -> None:
    process = run_process("report", str(tmp_path / "ключ"), PYTHONIOENCODING="ascii")
    assert process.returncode == 2 and "\\u043a" in process.stderr


# ---- verbs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["check", "data", "--out", "c"], "fingerprint"),
        (["plan", "data"], "lines"),
        (["train", "data"], "bundle"),
        (["train", "--resume", "r", "--extend", "5m"], "bundle"),
        (["evaluate", "r", "data"], "confusion"),
        (["predict", "r", "a.png", "--out", "masks"], "written"),
    ],
)
def test_json_is_one_document_and_nothing_else(api: Api, words: list[str], key: str, capsys: Captured) -> None:
    assert cli.main([*words, "--json"]) == 0
    output = capsys.readouterr()
    assert key in json.loads(output.out)
    assert "is working" in output.err


def test_report_as_json(fake_run: FakeRun, capsys: Captured) -> None:
    run = fake_run(names=("a", "b"))
    assert cli.main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(run / "report.html")}


def test_only_what_was_given_reaches_the_api(api: Api) -> None:
    assert cli.main(["train", "data"]) == 0
    assert api.calls["train"] == ((), {"data": Path("data")})


def test_options_reach_the_api_as_values(api: Api) -> None:
    words = "train data --model unet --epochs 3 --crop 256x320 --lr 0.01 --no-ema --ignore 255 --ignore 7"
    assert (
        cli.main(
            [
                *words.split(),
                "--encoder",
                "resnet34",
                "-O",
                "width=32",
                "--weights",
                "imagenet",
                "--seed",
                "4",
                "--snap",
            ]
        )
        == 0
    )
    settings = api.calls["train"][1]
    assert settings == {
        "data": Path("data"),
        "model": "unet",
        "epochs": 3,
        "crop": (256, 320),
        "learning_rate": 0.01,
        "ema": False,
        "ignore_values": (255, 7),
        "options": {"width": 32, "encoder": "resnet34", "weights": "imagenet"},
        "seed": 4,
        "snap": True,
    }


def test_every_train_option_is_a_setting_of_the_api() -> None:
    """What the parser hands on is a parameter of `api.train` or a field of its settings."""
    import inspect

    from perpixel.apps import api as real
    from perpixel.apps.config import TrainConfig

    known = {*inspect.signature(real.train).parameters, *TrainConfig.model_fields}
    own = {"context", "resume", "extend", "as_json", "option", "encoder", "weights"}
    assert set(inspect.signature(cli.train).parameters) - own <= known


def test_resume_and_extend(api: Api) -> None:
    assert cli.main(["train", "--resume", "runs/x", "--extend", "10"]) == 0
    assert api.calls["resume"] == ((Path("runs/x"),), {"extend": "10"})


def test_check_screen_and_its_exit_code(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert cli.main(["check", "data", "--out", "c", "--ignore", "255"]) == 0
    assert api.calls["check"] == ((Path("data"),), {"out": Path("c"), "ignore_values": (255,)})
    text = capsys.readouterr().out
    for part in (
        "701  (train 367, val 101, test 233)",
        "360x480",
        "bicyclist",
        "a\\x1b.png: value 12 (3 times)",
        "mend it",
    ):
        assert part in text
    assert "perpixel train data --budget 10m" in text
    from perpixel.apps import api as real

    fingerprint = vars(real.check("data").fingerprint)
    monkeypatch.setattr(real, "check", api.answer("check", check_result(fingerprint, severity="error")))
    assert cli.main(["check", "data", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["severity"] == "error"


def test_screens_end_with_what_to_type_next(api: Api, capsys: Captured) -> None:
    expected = {
        ("plan", "my data"): ("it fits", "perpixel train 'my data' --budget 10m"),
        ("train", "data"): ("after step 380 of 400", "perpixel evaluate"),
        ("evaluate", "r"): ("mIoU", "perpixel report r"),
        ("predict", "r", "a.png", "--out", "masks"): (
            "2 label maps written, 1 were there already",
            "perpixel predict r",
        ),
    }
    for words, parts in expected.items():
        assert cli.main(list(words)) == 0
        text = capsys.readouterr().out
        assert all(part in text for part in parts), text
        assert "next" in text and "\x1b" not in text


def test_models_and_describe(capsys: Captured) -> None:
    assert cli.main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert {"unet", "unet_valid", "fcn32s", "fcn16s", "fcn8s"} <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)
    assert cli.main(["models"]) == 0
    assert "perpixel describe" in capsys.readouterr().out
    assert cli.main(["describe", "unet", "--size", "96x64", "--classes", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]
    assert cli.main(["describe", "unet", "--size", "96x64"]) == 0
    assert "receptive field" in capsys.readouterr().out
    assert cli.main(["describe", "unett"]) == 2
    assert "did you mean 'unet'" in capsys.readouterr().err
