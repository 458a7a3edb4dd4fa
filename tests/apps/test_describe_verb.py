"""`perpixel describe --svg --measure`: a drawing on the disk, a measured receptive field on the screen."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from perpixel.apps import cli, screens

WORDS = ["describe", "unet", "--size", "96x80", "-O", "width=2", "-O", "depth=3"]
Captured = pytest.CaptureFixture[str]


def test_svg_is_written_and_named(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "new folder" / "unet.svg"
    assert cli.main([*WORDS, "--svg", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"drawing     {path}" in shown
    assert "reached by gradients" not in shown
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert root[0].text == "unet"
    assert "3 × 80 × 96 in" in path.read_text(encoding="utf-8")
    assert cli.main([*WORDS, "--svg", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["svg"] == str(path)
    assert {"source": "down 1", "target": "up 2", "join": "concatenation", "resize": ""} in document["edges"]


def test_another_suffix_is_refused(tmp_path: Path, capsys: Captured) -> None:
    assert cli.main([*WORDS, "--svg", "."]) == 2
    assert "name it drawing.svg" in capsys.readouterr().err
    assert cli.main([*WORDS, "--svg", str(tmp_path / "unet.png")]) == 2
    assert "the drawing is an SVG file, name it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_measured_field_is_shown(capsys: Captured) -> None:
    assert cli.main([*WORDS, "--measure"]) == 0
    assert "44 wide, 44 high" in capsys.readouterr().out
    assert cli.main(["describe", "unet", "--size", "32x32", "-O", "width=2", "-O", "depth=3", "--measure"]) == 0
    assert "32 wide, 32 high, up to the rim of the image" in capsys.readouterr().out


def test_measured_field_in_json_and_without_any_gradient(capsys: Captured) -> None:
    words = ["describe", "fcn32s", "--size", "32x32", "--classes", "2", "-O", "fc_channels=4", "-O", "backbone=alexnet"]
    assert cli.main([*words, "--measure", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    measured = document["measured"]
    assert measured["box"] == [0, 0, 32, 32] and measured["is_clipped"] is True
    assert measured["effective_pixels"] is None
    screens.show_description(screens.make_console(), document)
    assert "none: these weights pass no gradient" in capsys.readouterr().out


def test_volumes_have_a_depth(tmp_path: Path, capsys: Captured) -> None:
    words = ["describe", "unet3d", "-O", "width=2", "-O", "depth=3", "--in-channels", "1"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "1 channels of 64 wide, 64 high and 64 deep" in shown and "depth x height x width" in shown
    path = tmp_path / "net.svg"
    assert cli.main([*words, "--size", "16x12x8", "--svg", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == [21, 8, 12, 16]
    assert [document["rows"][0][side] for side in ("depth", "height", "width")] == [8, 12, 16]
    assert "1 × 8 × 12 × 16 in" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unet", "--size", "96x64x8"], "UNet takes images, height x width: give 2 sides"),
        (["vnet", "--size", "96x64"], "VNet takes volumes, depth x height x width: give 3 sides"),
        (["unet", "--size", "96x64x"], "not a size: write WIDTHxHEIGHT, or of volumes WIDTHxHEIGHTxDEPTH"),
        (["unet3d", "-O", "width=2", "--measure"], "receptive fields are measured on images only"),
    ],
)
def test_sizes_of_the_other_kind_are_refused(words: list[str], message: str, capsys: Captured) -> None:
    assert cli.main(["describe", *words]) == 2
    assert message in capsys.readouterr().err
