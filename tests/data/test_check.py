"""The check: every problem of a data set, and its fingerprint by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_builder import Builder

from perpixel.data.check import CheckResult, check_dataset, refuse
from perpixel.data.dataset import open_dataset
from perpixel.data.fingerprint import Fingerprint, FingerprintTally, ValueTally, channel_values
from perpixel.errors import InputError


def check(build: Builder, **options: object) -> CheckResult:
    return check_dataset(open_dataset(build.root, **options), workers=2)  # type: ignore[arg-type]


def codes(result: CheckResult) -> list[tuple[str, str]]:
    return [(problem.severity, problem.code) for problem in result.problems]


def make(build: Builder, train: str = "abc", val: str = "d", values: tuple[int, ...] = (0, 1)) -> None:
    build.json("classes.json", ["soil", "crop"])
    build.pairs("train/images/{}.png", "train/masks/{}.png", list(train), values)
    build.pairs("val/images/{}.png", "val/masks/{}.png", list(val), values)


def test_a_good_set_has_no_problems(build: Builder) -> None:
    make(build)
    seen: list[tuple[int, int, str]] = []
    result = check_dataset(open_dataset(build.root), workers=2, on_progress=lambda *event: seen.append(event))
    assert result.problems == () and result.errors == ()
    assert seen == [(1, 4, "a"), (2, 4, "b"), (3, 4, "c"), (4, 4, "d")]
    refuse(result)


def test_the_fingerprint_by_hand(build: Builder) -> None:
    build.json("classes.json", {"classes": ["soil", "crop", "void"], "ignore_index": 2})
    build.array("train/images/a.png", np.array([[0, 10], [20, 30]], dtype=np.uint8))
    build.array("train/images/b.png", np.array([[50, 50, 50, 51]], dtype=np.uint8))
    build.array("val/images/c.png", np.array([[255, 0]], dtype=np.uint8))
    build.array("train/masks/a.png", np.array([[0, 0], [0, 1]], dtype=np.uint8))
    build.array("train/masks/b.png", np.array([[2, 2, 0, 0]], dtype=np.uint8))
    build.array("val/masks/c.png", np.array([[1, 1]], dtype=np.uint8))
    print_ = check(build).fingerprint
    assert print_.num_images == {"train": 2, "val": 1}
    assert print_.sizes == {"min": [1, 2], "median": [1, 2], "max": [2, 4]}
    assert (print_.channels, print_.dtype, print_.format, print_.groups) == (1, "uint8", "pairs", 0)
    values = np.array([0, 10, 20, 30, 50, 50, 50, 51])
    assert print_.mean[0] == pytest.approx(values.mean()) and print_.std[0] == pytest.approx(values.std())
    assert (print_.value_min, print_.value_max) == ([0.0], [51.0])
    assert (print_.value_low, print_.value_high) == ([0.0], [51.0])
    assert print_.class_pixels == {"train": [5, 1], "val": [0, 2]}
    assert print_.class_images == {"train": [2, 1], "val": [0, 1]}
    assert print_.ignored_pixels == {"train": 2, "val": 0}
    assert print_.imbalance == 5.0
    assert Fingerprint.from_json(json.loads(json.dumps(print_.to_json()))) == print_


def test_the_digest_follows_pixels_masks_and_names(build: Builder) -> None:
    make(build)
    first = check(build).fingerprint.digest
    assert first == check(build).fingerprint.digest
    build.mask("train/masks/a.png", 1, 0)
    assert check(build).fingerprint.digest != first
    build.mask("train/masks/a.png", 0, 1)
    assert check(build).fingerprint.digest == first
    build.image("train/images/a.png")
    assert check(build).fingerprint.digest != first


def test_percentiles_of_sixteen_bit_and_float_values() -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 4000, (64, 64, 2)).astype(np.uint16)
    tally = FingerprintTally(["a"], None)
    for image in (deep, deep.astype(np.float32)):
        running = [ValueTally() for _ in range(2)]
        for part in (image[:32], image[32:]):
            for channel, values in zip(running, channel_values(part)):
                channel.add(values)
        assert running[1].mean == pytest.approx(deep[:, :, 1].mean())
        assert running[1].std == pytest.approx(deep[:, :, 1].astype(float).std())
        for percent in (0.5, 50, 99.5):
            assert running[0].percentile(percent) == pytest.approx(np.percentile(deep[:, :, 0], percent), abs=60)
    assert tally.finish(format="x", num_images={}, channels=1, groups=0).mean == [0.0]


def test_all_bad_files_are_found_in_one_go(build: Builder) -> None:
    make(build, train="abcdefg")
    (build.root / "train/images/a.png").write_bytes(b"not an image")
    (build.root / "train/masks/b.png").write_bytes(b"\x89PNG\r\n")
    build.mask("train/masks/c.png", 0, 1, size=(5, 8))
    build.mask("train/masks/d.png", 0, 1, 9, 12)
    build.array("train/images/e.png", np.full((6, 8, 3), 7, dtype=np.uint8))
    result = check(build)
    assert [(p.code, p.count) for p in result.errors] == [
        ("image_unreadable", 1),
        ("mask_unreadable", 1),
        ("size_mismatch", 1),
        ("unknown_value", 12),
        ("unknown_value", 12),
    ]
    assert all(problem.file and problem.message and problem.remedy for problem in result.errors)
    assert str(build.root / "train/masks/d.png") == result.errors[3].file
    assert "value 9 (12 pixels) is in none of the 2 classes (soil, crop)" in result.errors[3].message
    assert result.errors[3].remedy.startswith("add it to classes.json, ignore it with ignore_values=9")
    assert ("warning", "constant_image") in codes(result)
    assert result.warnings[0].message.endswith("every pixel has the value 7, 7, 7")
    with pytest.raises(InputError, match=r"a\.png.*\(1 of 5 errors; perpixel check lists them all\)"):
        refuse(result)


def test_a_lossy_mask_lists_a_few_values_and_sums_up_the_rest(build: Builder) -> None:
    make(build)
    build.mask("train/masks/a.png", *range(16), size=(6, 8))
    found = check(build).errors
    assert len(found) == 6
    assert found[-1].message.endswith("2 further values (12 pixels) are in none of the classes")


def test_ignored_masks(build: Builder) -> None:
    make(build)
    build.mask("train/masks/a.png", 5)
    result = check(build, ignore_values=(5,))
    assert codes(result)[0] == ("warning", "all_ignored") and not result.errors
    build.mask("val/masks/d.png", 5)
    result = check(build, ignore_values=(5,))
    assert ("error", "split_all_ignored") in codes(result)
    with pytest.raises(InputError, match=r"all pixels of val are ignored \(48\): check ignore_values and the masks$"):
        refuse(result)


def test_the_same_image_in_two_splits(build: Builder) -> None:
    make(build)
    same = np.random.default_rng(9).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    for name in ("train/images/a.png", "val/images/d.png"):
        build.array(name, same)
    problem = check(build).problems[0]
    assert (problem.severity, problem.code, problem.count) == ("warning", "duplicate_between_splits", 2)
    assert problem.message == "the same image stands in train and val (train: a, val: d)"


def test_classes_that_are_missing_or_rare(build: Builder) -> None:
    make(build)
    build.json("classes.json", ["soil", "crop", "weed", "stone"])
    build.mask("val/masks/d.png", 0, 2)
    messages = {problem.code: problem.message for problem in check(build).problems}
    assert messages["class_not_in_train"] == "class 'weed' is in no train image, but in val"
    assert messages["class_absent"] == "class 'stone' is in no image at all"
    assert messages["class_not_in_split"] == "class 'crop' is not in val, so it has no score there"
    build.mask("train/masks/a.png", 0, 3)
    few = [p.message for p in check(build).problems if p.code == "class_in_few_images"]
    assert few == ["class 'crop' is in only 2 of 3 train images", "class 'stone' is in only 1 of 3 train images"]


def test_one_class_only(build: Builder) -> None:
    make(build, values=(1,))
    assert "train holds one class only ('crop')" in check(build).errors[0].message


def test_mixed_types_channels_and_torn_groups(build: Builder) -> None:
    make(build, train="abcdef", val="x")
    build.array("train/images/a.png", np.arange(48, dtype=np.uint16).reshape(6, 8) * 900)
    result = check(build)
    assert ("warning", "mixed_dtypes") in codes(result)
    result = check(build, group="(.)$")
    assert ("warning", "group_in_splits") not in codes(result) and result.fingerprint.groups == 7
    build.image("val/images/2a.png")
    build.mask("val/masks/2a.png", 0, 1)
    torn = [p for p in check(build, group="(.)$").problems if p.code == "group_in_splits"]
    assert torn[0].message == "1 of 7 groups lie in several splits (a)"


def test_outlines_without_pixels(build: Builder) -> None:
    tiny = {"label": "x", "points": [[1.1, 1.1], [1.2, 1.1], [1.2, 1.2]], "shape_type": "polygon"}
    big = {"label": "x", "points": [[0, 0], [4, 0], [4, 4]], "shape_type": "polygon"}
    for split, shapes in (("train", [big, tiny]), ("val", [big])):
        build.image(f"{split}/{split}.jpg")
        content = {"version": "5", "shapes": shapes, "imagePath": f"{split}.jpg", "imageHeight": 6, "imageWidth": 8}
        build.json(f"{split}/{split}.json", content)
    found = next(p for p in check(build).problems if p.code == "empty_outline")
    assert (found.severity, found.count) == ("info", 1) and "1 of 2 outlines cover no pixel" in found.message


def test_unlabelled_images_are_read_too(build: Builder) -> None:
    make(build)
    build.image("test/images/x.png")
    (build.root / "test/images/y.png").write_bytes(b"bad")
    result = check(build)
    assert result.fingerprint.num_images["unlabelled"] == 2 and "unlabelled" not in result.fingerprint.class_pixels
    assert [problem.code for problem in result.errors] == ["image_unreadable"]


def test_the_result_as_json(build: Builder) -> None:
    make(build)
    content = json.loads(json.dumps(check(build).to_json()))
    assert set(content) == {"counts", "problems", "notes", "fingerprint", "train_classes"}
    assert content["counts"] == {"error": 0, "warning": 0, "info": 0}
    assert content["train_classes"] == {name: [0, 1] for name in "abc"}
    assert CheckResult.from_json(content).to_json() == content
    with pytest.raises(InputError, match=r"keys missing or unknown: format"):
        Fingerprint.from_json({k: v for k, v in content["fingerprint"].items() if k != "format"})
