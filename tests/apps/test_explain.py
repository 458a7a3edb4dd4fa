"""`perpixel explain`: one page about any model and image, with true numbers, and clear refusals."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import perpixel
from perpixel.apps import explain_pictures as draw
from perpixel.apps.cli import main
from perpixel.apps.explain import explain
from perpixel.errors import InputError
from perpixel.images import Normalisation, write_png
from perpixel.inference.bundle import BundleConfig, save_bundle
from perpixel.inference.insight import MAX_WORKING_SIDE
from perpixel.labels import ClassInfo, ClassTable
from perpixel.models import NETS, create_model, spatial_dims

NAMES = ("sky", "road", "car", "tree & bush")
SMALL_FCN = {"width": 4, "fc_channels": 8}
SMALL_UNET = {"width": 2, "depth": 2}


def contract_cases() -> ModuleType:
    """The small forms in which the contract tests build every model."""
    path = Path(__file__).parents[1] / "contracts" / "test_models.py"
    spec = importlib.util.spec_from_file_location("contract_of_models", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = contract_cases().CASES
IMAGE_MODELS = [name for name, builder in NETS.items() if spatial_dims(builder) == 2]
FIRST = {name: next(case for case in CASES.values() if case.name == name) for name in IMAGE_MODELS}
ALL = {**FIRST, **{name: case for name, case in CASES.items() if "supervision" in name or "all outputs" in name}}


def make_bundle(
    folder: Path, model: str, options: dict[str, Any], *, channels: int = 3, classes: int = 4, scale: float = 1.0
) -> Path:
    """A net that was never trained, with values where it starts with zeros."""
    torch.manual_seed(0)
    net = create_model(model, in_channels=channels, num_classes=classes, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    norm = Normalisation((0.0,) * channels, (255.0,) * channels, (0.5,) * channels, (0.3,) * channels)
    infos = tuple(ClassInfo(name, (60 * n, 255 - 60 * n, 128), (n,)) for n, name in enumerate(NAMES[:classes]))
    config = BundleConfig(model, options, channels, ClassTable(infos), norm, scale, (64, 64), "fp32")
    return save_bundle(folder, model=net, config=config, metrics={}, card="")


def photo(folder: Path, height: int = 48, width: int = 56) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return write_png(folder / "photo.png", values)


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([str(word) for word in (*words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("perpixel: error: ")
    return line


@pytest.fixture(scope="module")
def fcn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("fcn") / "bundle", "fcn8s", SMALL_FCN)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("unet") / "bundle", "unet", SMALL_UNET)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if case.is_heavy else []) for name, case in ALL.items()]
)
def test_every_model_is_explained(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    bundle = make_bundle(tmp_path / "bundle", case.name, case.options)
    made = explain(bundle, photo(tmp_path), out=tmp_path / "page.html", samples=None if name == "fcn8s" else 0)
    page, document = made.page.read_text(), made.document
    assert document["working_size"] == [56, 48]
    assert document["stages"] and document["score_maps"]
    assert sum(row["share"] for row in document["classes"]) == pytest.approx(1)
    assert len(pictures(page)) > 6 + 2 * len(document["stages"])
    assert bool(document["skips"]) == (case.name in ("fcn32s", "fcn16s", "fcn8s", "fcn8s_atonce"))
    assert ('id="skips"' in page) == bool(document["skips"])
    aux = create_model(case.name, num_classes=4, **case.options).aux_weights
    assert len(document["side_outputs"]) + (document["presence"] is not None) == len(aux)
    assert ('id="sides"' in page) == bool(aux)
    for stage in document["stages"]:
        assert f"<b>{stage['name']}</b>" in page


def test_the_page_holds_all_that_it_shows(fcn: Path, tmp_path: Path) -> None:
    made = explain(fcn, photo(tmp_path), out=tmp_path / "page.html", samples=2, classes="road,tree & bush")
    page = made.page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page and "url(h" not in page
    assert "tree &amp; bush" in page and "tree & bush" not in page
    assert made.document["shown"] == ["road", "tree & bush"]
    for text in ("What each skip adds", "pool4 adds", "pool3 adds", "scores at 1/32", "scores at 1/16", "scores at 1/8",
                 "Variance of 2 passes", "prefers-color-scheme: dark"):  # fmt: skip
        assert text in page, text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html" or "part" in path.name] == ["page.html"]


def test_skips_are_counted_as_they_change_the_answer(fcn: Path, tmp_path: Path) -> None:
    document = explain(fcn, photo(tmp_path), out=tmp_path / "page.html", samples=0).document
    assert [(skip["name"], skip["stride"]) for skip in document["skips"]] == [
        ("score", 32), ("pool4", 16), ("pool3", 8)
    ]  # fmt: skip
    assert document["skips"][0]["share_changed"] is None
    assert document["skips"][-1]["same_as_answer"] == 1
    assert 0 < document["skips"][1]["same_as_answer"] < 1 or document["skips"][2]["share_changed"] == 0
    assert document["skips"][2]["share_changed"] == pytest.approx(1 - document["skips"][1]["same_as_answer"])
    assert document["samples"] is None


def test_other_channels_and_a_working_scale(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "unet", SMALL_UNET, channels=5, scale=0.5)
    image = np.random.default_rng(1).normal(100, 40, (40, 60, 5)).astype(np.float32)
    document = explain(bundle, image, out=tmp_path / "page.html", pixel=(59, 0)).document
    assert (document["size"], document["channels"], document["working_size"]) == ([60, 40], 5, [30, 20])
    assert (document["pixel"]["x"], document["pixel"]["y"]) == (59, 0)
    left, top, right, bottom = document["pixel"]["box"]
    assert right == 60 and top == 0 and left > 20 and bottom < 40


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_the_smallest_image(fcn: Path, tmp_path: Path, kind: type) -> None:
    document = explain(fcn, np.full((1, 1, 3), 70, kind), out=tmp_path / "page.html", samples=0).document
    assert document["working_size"] == [1, 1] and sum(row["share"] for row in document["classes"]) == 1


def test_one_class(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "unet", SMALL_UNET, channels=1, classes=1)
    image = np.random.default_rng(1).integers(0, 255, (24, 24), dtype=np.uint8)
    document = explain(bundle, image, out=tmp_path / "page.html").document
    assert [row["name"] for row in document["classes"]] == ["not sky", "sky"]


def test_of_a_large_image_a_part_is_looked_at_and_the_page_says_so(unet: Path, tmp_path: Path) -> None:
    image = np.zeros((30, 2400, 3), np.uint8)
    made = explain(unet, image, out=tmp_path / "page.html", pixel=(2000, 11))
    assert made.document["part"] == [2000 - MAX_WORKING_SIDE // 2, 0, 2000 + MAX_WORKING_SIDE // 2, 30]
    assert made.document["working_size"] == [MAX_WORKING_SIDE, 30]
    assert (made.document["pixel"]["x"], made.document["pixel"]["y"]) == (2000, 11)
    assert f"of which the part of {MAX_WORKING_SIDE} x 30 at x 1680, y 0 is looked at" in made.page.read_text()


def test_the_command_prints_its_numbers(fcn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "there" / "page.html"
    words = ("explain", fcn, photo(tmp_path), "--out", out, "--pixel", "5,7", "--samples", 2, "--device", "cpu")
    document = run_json(capsys, *words)
    assert document["page"] == str(out) and out.is_file()
    assert (document["pixel"]["x"], document["pixel"]["y"], document["samples"]["count"]) == (5, 7, 2)
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "pool3 (1/8) changes the class of" in said and "page.html" in said and "next" in said


def test_a_folder_gets_the_page(unet: Path, tmp_path: Path) -> None:
    assert perpixel.explain(unet, photo(tmp_path), out=tmp_path).page == tmp_path / "explain.html"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "road,cat"], "unknown class 'cat'; did you mean 'car'? known: car, road, sky, tree & bush"),
        (["--pixel", "56,3"], "pixel 56,3: outside the image, which is 56 wide and 48 high: give x from 0 to 55"),
        (["--pixel=-1,3"], "pixel -1,3: outside the image"),
        (["--pixel", "middle"], "--pixel 'middle': not a pixel: write X,Y, two whole numbers"),
        (["--samples", "3"], "samples 3: UNet has no dropout to sample from: leave it out"),
        (["--samples=-1"], "samples -1: give the number of random passes"),
        (["--device", "abacus"], "unknown device 'abacus': choose one of auto, cpu"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], message: str, unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert message in refused(capsys, "explain", unet, photo(tmp_path), "--out", out, *words)
    assert not out.exists()


def test_files_that_are_not_there_are_refused(unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path)
    missing = tmp_path / "missing"
    assert f"{missing}: no such folder: give a run or a bundle" in refused(capsys, "explain", missing, image)
    assert "neither a run nor a bundle" in refused(capsys, "explain", tmp_path, image)
    assert f"{missing}.png: no such file" in refused(capsys, "explain", unet, f"{missing}.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in refused(capsys, "explain", unet, tmp_path / "text.png")
    write_png(tmp_path / "grey.png", np.zeros((9, 9), np.uint16))
    bundle = make_bundle(tmp_path / "five", "unet", SMALL_UNET, channels=5)
    assert "3 channels, but the model was trained on 5" in refused(capsys, "explain", bundle, image)
    blocked = tmp_path / "text.png" / "page.html"
    assert "where a folder is needed" in refused(capsys, "explain", unet, image, "--out", blocked)


def test_the_page_is_never_written_over_the_image(
    unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path)
    before = image.read_bytes()
    line = refused(capsys, "explain", unet, image, "--out", image)
    assert f"--out {image}: the page is an HTML file: give it a name that ends in .html" in line
    assert image.read_bytes() == before


def test_values_that_are_no_numbers_are_refused(unet: Path, tmp_path: Path) -> None:
    image = np.zeros((9, 9, 3), np.float32)
    image[4, 4] = np.nan
    with pytest.raises(InputError, match="image: 3 of 243 values are NaN or infinite: replace them by numbers"):
        explain(unet, image, out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_signed_scores_are_clear_at_zero() -> None:
    picture = draw.signed(np.array([[-2.0, 0.0, 1.0, 9.0]]), 2.0)
    assert picture[0, :, 3].tolist() == [255, 0, 128, 255]
    assert tuple(picture[0, 0, :3]) == draw.AGAINST and tuple(picture[0, 3, :3]) == draw.FOR


def test_heat_grows_brighter() -> None:
    brightness = draw.heat(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]]), 0, 1).sum(2)[0].tolist()
    assert brightness[0] == brightness[1] < brightness[2] < brightness[3] == brightness[4]


def test_a_map_keeps_its_colours_and_shrinks_to_its_side() -> None:
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, 30:] = (250, 10, 20)
    (found,) = pictures(f'src="{draw.embed_map(picture, 20)}"')
    assert found.size == (20, 10)
    assert set(found.get_flattened_data() if hasattr(found, "get_flattened_data") else found.getdata()) == {
        (0, 0, 0), (250, 10, 20)
    }  # fmt: skip


def test_a_mark_stands_in_the_middle_of_its_pixel() -> None:
    marked = draw.mark(np.full((64, 64, 3), 90, np.uint8), (20, 40), [5])
    zoom = marked.shape[0] // 64
    assert marked.shape == (64 * zoom, 64 * zoom, 3) and zoom > 1
    assert marked[int(20.5 * zoom), int(40.5 * zoom)].tolist() == [255, 255, 255]
    assert (marked[: 10 * zoom] == 90).all() and (marked[:, : 30 * zoom] == 90).all()
