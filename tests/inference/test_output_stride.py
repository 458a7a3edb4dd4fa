"""A DeepLab trained at one output stride, used at another: the same weights, every dilation rescaled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import perpixel
from perpixel.apps import api
from perpixel.apps.cli import main
from perpixel.data.synthetic import write_demo
from perpixel.errors import InputError
from perpixel.inference.bundle import build_model, load_bundle

OPTIONS = {"encoder": "resnet18", "channels": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("deeplab")
    data = write_demo(place / "cells", num_train=4, num_val=2, num_test=2, size=(48, 48))
    settings = {"model": "deeplab_v3_plus", "options": OPTIONS, "epochs": 1, "batch_size": 4, "threads": 1}
    return api.train(data, out=place / "run", **settings).path


def test_the_same_weights_at_half_the_stride(run: Path) -> None:
    trained, at_16 = load_bundle(run)
    finer, at_8 = load_bundle(run, output_stride=8)
    assert (trained.output_stride, finer.output_stride) == (16, 8)
    assert finer.rates == [2 * rate for rate in trained.rates]
    assert all(torch.equal(value, finer.state_dict()[name]) for name, value in trained.state_dict().items())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(trained(image), finer(image))
        rebuilt = build_model(at_8).eval()
        rebuilt.load_state_dict(finer.state_dict())
        assert torch.equal(rebuilt(image), finer(image)), "the config says how to build the finer net"
    assert at_16.options.get("output_stride", 16) == 16


def test_the_command_line_takes_a_stride(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--output-stride", "8", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert Path(scores["path"]) == run / "evaluation" / "test-OS8"
    assert scores["output_stride"] == 8


@pytest.mark.parametrize("stride", [4, 12])
def test_impossible_strides_are_refused(run: Path, stride: int) -> None:
    with pytest.raises(InputError, match=f"output_stride {stride} of deeplab_v3_plus: choose 8, 16 or 32"):
        perpixel.load(run, output_stride=stride)


def test_models_of_one_stride_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"model": "unet", "options": {"width": 2, "depth": 2}, "epochs": 1, "batch_size": 4, "threads": 1}
    unet = api.train(run.parent / "cells", out=tmp_path / "unet", **settings).path
    assert main(["evaluate", str(unet), "--output-stride", "8"]) == 2
    assert "'unet' has one stride, only deeplab_v3, deeplab_v3_plus can change it" in capsys.readouterr().err
