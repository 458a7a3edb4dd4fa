"""Objects of many files: label images, COCO JSON, table and overlays, whole or absent, and never twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_instance_predictor import CLASSES, picture, predictor

from perpixel.errors import InputError
from perpixel.images import read_image, write_png
from perpixel.inference import predict_instance_files
from perpixel.inference.instance_files import display_bright, write_label_image
from perpixel.inference.instance_tables import category_ids, coco_categories, object_rows
from perpixel.labels import ClassInfo, ClassTable, Instances, Runs, distinct_colours, draw_objects


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    content = {"a/one.png": picture(), "a/none.png": np.zeros((20, 30), np.uint8), "b/two.png": picture(100, 90)}
    return [write_png(tmp_path / "in" / name, array) for name, array in content.items()]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "objects.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    written, skipped = predict_instance_files(predictor(), images, out)
    assert written == ["a/one", "a/none", "b/two"] and not skipped
    label_image = read_image(out / "a/one.png")[..., 0]
    assert label_image.dtype == np.uint16 and label_image.max() == 10
    rows = [row for row in rows_of(out) if row["image"] == "a/one"]
    assert [int(row["id"]) for row in rows] == list(range(1, 11))
    for row in rows:
        mask = label_image == int(row["id"])
        ys, xs = np.nonzero(mask)
        assert int(row["area"]) == mask.sum() and float(row["mean_1"]) == picture()[mask].mean()
        box = [float(row[side]) for side in ("x0", "y0", "x1", "y1")]
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.allclose([float(row["centroid_x"]), float(row["centroid_y"])], [xs.mean() + 0.5, ys.mean() + 0.5])
        assert np.isclose(float(row["equivalent_diameter"]), np.sqrt(4 * mask.sum() / np.pi), atol=1e-3)
        assert row["class"] == ("lit" if float(row["mean_1"]) > 240 else "dim") and 0 < float(row["score"]) <= 1
    for name in ("a/one", "a/none", "b/two"):
        assert read_image(out / "overlays" / f"{name}.png").shape[2] == 3
    assert not list(out.rglob(".*"))  # no temporary file is left


def test_coco(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_instance_files(predictor(), images, out, overlays=False)
    content = json.loads((out / "objects.json").read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 7, "name": "dim"}, {"id": 9, "name": "lit"}]
    assert [(each["id"], each["file_name"], each["height"], each["width"]) for each in content["images"]] == [
        (1, "none.png", 20, 30), (2, "one.png", 150, 130), (3, "two.png", 100, 90),
    ]  # fmt: skip
    first = [each for each in content["annotations"] if each["image_id"] == 2]
    assert [each["id"] for each in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    label_image = read_image(out / "a/one.png")[..., 0]
    for number, each in enumerate(first, 1):
        size = tuple(each["segmentation"]["size"])
        mask = Runs.from_texts([each["segmentation"]["counts"]], size).mask(0)
        assert np.array_equal(mask, label_image == number) and each["area"] == mask.sum() and each["iscrowd"] == 0
        assert 0 < each["score"] <= 1 and each["category_id"] in (7, 9)


def test_ids_of_the_truths(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ids = {"a/one": 500, "a/none": 7, "b/two": 12}
    predict_instance_files(predictor(), images, out, overlays=False, image_ids=ids)
    content = json.loads((out / "objects.json").read_text(encoding="utf-8"))
    found = {each["file_name"]: each["id"] for each in content["images"]}
    assert found == {"one.png": 500, "none.png": 7, "two.png": 12}
    with pytest.raises(InputError, match="'b/two' has no id in image_ids"):
        predict_instance_files(predictor(), images, out, image_ids={"a/one": 1, "a/none": 2})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_it(images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    predict_instance_files(predictor(), images, tmp_path / "out", overlays=False)
    truth = coco.COCO(str(tmp_path / "out" / "objects.json"))
    results = truth.loadRes(list(truth.anns.values()))
    assert len(results.anns) == len(truth.anns) and int(truth.annToMask(truth.anns[1]).sum()) == truth.anns[1]["area"]


def test_what_is_done_is_not_done_again(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_instance_files(predictor(), images[:1], out)
    first = (out / "one.png").stat().st_mtime_ns
    (out / "overlays" / "one.png").unlink()  # as if killed before
    assert predict_instance_files(predictor(), images[:1], out)[0] == ["one"]
    assert (out / "one.png").stat().st_mtime_ns != first
    assert predict_instance_files(predictor(), images[:1], out) == ([], ["one"])
    assert predict_instance_files(predictor(), images[:1], out, overwrite=True)[0] == ["one"]


def test_a_killed_run_goes_on(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_instance_files(predictor(), images, out, on_image=stop)
    assert not (out / "objects.json").exists()
    assert predict_instance_files(predictor(), images, out) == (["b/two"], ["a/one", "a/none"])
    whole = tmp_path / "whole"
    predict_instance_files(predictor(), images, whole)
    for name in ("objects.json", "objects.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_results_of_another_model_are_not_mixed(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_instance_files(predictor(), images, out)
    with pytest.raises(InputError, match="holds predictions of another model or other settings"):
        predict_instance_files(predictor(min_score=0.99), images, out)
    predict_instance_files(predictor(min_score=0.99), images[:1], out, overwrite=True)
    assert {row["image"] for row in rows_of(out)} == {"one"}
    assert not (out / "b" / "two.png").exists()


def test_results_never_replace_images(tmp_path: Path) -> None:
    path = write_png(tmp_path / "one.png", picture())
    with pytest.raises(InputError, match="its label image would be written over it"):
        predict_instance_files(predictor(), [path], tmp_path)
    inner = [write_png(tmp_path / name / "x.png", picture()) for name in ("overlays", "rest")]
    with pytest.raises(InputError, match="would lie among those in overlays"):
        predict_instance_files(predictor(), inner, tmp_path / "out")


def test_more_objects_than_sixteen_bits_hold(tmp_path: Path) -> None:
    places = np.arange(70_000) * 2
    spans = np.stack([places, places + 1], axis=1)
    many = Instances.of(Runs((400, 350), spans, np.arange(70_001)))
    path = write_label_image(tmp_path / "many.v2", many)
    stored = tifffile.imread(path)
    assert path.name == "many.v2.tif" and stored.dtype == np.uint32 and stored.max() == 70_000
    few = write_label_image(tmp_path / "few.v2", many.take(np.arange(9)))
    assert few.name == "few.v2.png" and read_image(few).max() == 9


def test_category_ids() -> None:
    def table(*values: tuple) -> ClassTable:
        named = [ClassInfo(f"c{i}", (i, 0, 0), each) for i, each in enumerate(values)]
        return ClassTable((ClassInfo("background", (0, 0, 0), ()), *named))

    assert category_ids(table((5,), (90,))) == [None, 5, 90]
    assert category_ids(table((5,), (5,))) == category_ids(table((), (3,))) == [None, 1, 2]
    assert category_ids(table(((255, 0, 0),))) == [None, 1]
    assert coco_categories(CLASSES)[1] == {"id": 9, "name": "lit"}


def test_tables_of_many_channels() -> None:
    image = np.arange(4 * 5 * 4, dtype=np.float32).reshape(4, 5, 4)
    found = Instances.of(Runs.from_masks(np.ones((1, 4, 5), bool)))
    (row,) = object_rows(image, found, CLASSES)
    assert [row[f"mean_{c}"] for c in range(1, 5)] == [38, 39, 40, 41] and row["score"] is None
    with pytest.raises(InputError, match=r"\(4, 5\) over one of \(5, 4\)"):
        object_rows(image.transpose(1, 0, 2), found, CLASSES)


def test_dark_images_are_brightened() -> None:
    assert display_bright((picture() // 10)[..., None]).max() == 255
    assert np.array_equal(display_bright(picture()[..., None])[..., 0], picture())


def test_pictures_of_objects() -> None:
    rng = np.random.default_rng(0)
    label_map = np.zeros((120, 160), int)
    for number in range(1, 40):
        row, col = 12 * (number // 8) + 8, 18 * (number % 8) + 6
        label_map[row : row + 9, col : col + 12] = number
    found = Instances.from_label_map(label_map)
    colours = distinct_colours(found)
    for one in range(len(found)):
        near = np.abs(found.boxes[:, :2] - found.boxes[one, :2]).max(axis=1)
        others = (near > 0) & (near < 20)
        assert not (colours[others] == colours[one]).all(axis=1).any()
    image = rng.integers(0, 90, (120, 160, 3)).astype(np.uint8)
    plain = draw_objects(image, found, CLASSES, scores=False, legend=False)
    assert plain.shape == (480, 640, 3)  # enlarged four times
    bar = draw_objects(image, found, CLASSES, scores=False)
    assert bar.shape == (514, 640, 3) and np.array_equal(bar[:480], plain)
    is_red = (np.abs(plain.astype(int) - CLASSES.colours[1]) < 30).all(axis=2)
    assert is_red.sum() > 500  # outlines in the class's colour
    assert draw_objects(image, Instances.none((120, 160)), CLASSES).shape == (514, 640, 3)
    with pytest.raises(InputError, match="objects of an image of"):
        draw_objects(image[:50], found, CLASSES)
