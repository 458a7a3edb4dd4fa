"""What `train` hands on to loss and sampling: counts of the data, and the same again when a run goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import perpixel
from perpixel.apps import preparing, tasks
from perpixel.data.batches import TrainingCrops
from perpixel.errors import InputError
from perpixel.files import read_json, write_json
from perpixel.images import write_png

TINY: dict[str, Any] = {"model": "unet", "options": {"width": 4, "depth": 2}, "crop": (32, 32), "precision": "fp32"}


def write_scenes(folder: Path, names: list[str]) -> Path:
    """Eight training images of ground and sky; a third class, where there is one, is in one of them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for i in range(count):
            label_map = np.zeros((40, 48), np.uint8)
            label_map[:10] = 1
            if i == 1 and len(names) > 2:
                label_map[20:24, 20:24] = 2
            image = np.clip(label_map * 100 + rng.integers(0, 20, label_map.shape), 0, 255).astype(np.uint8)
            write_png(folder / split / "images" / f"{split}_{i}.png", image)
            write_png(folder / split / "masks" / f"{split}_{i}.png", label_map)
    write_json(folder / "classes.json", names)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), ["ground", "sky", "sign"])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[TrainingCrops]:
    """The crops of every run, as they are made."""
    made: list[TrainingCrops] = []

    class Watched(TrainingCrops):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr(tasks, "TrainingCrops", Watched)
    return made


def test_sampling_comes_from_the_data_and_is_the_same_when_a_run_goes_on(
    scenes: Path, tmp_path: Path, drawn: list[TrainingCrops]
) -> None:
    settings = {"repeat_threshold": 0.5, "rare_power": 0.5, "rare_share": 0.4}
    run = perpixel.train(scenes, epochs=1, out=tmp_path / "run", **TINY, **settings)
    perpixel.resume(run.path, extend="1")
    first, second = drawn
    assert first.repeats.tolist() == second.repeats.tolist() == [1, 2, 1, 1, 1, 1, 1, 1]
    pixels = np.array(read_json(run.path / "fingerprint.json")["class_pixels"]["train"])
    np.testing.assert_allclose(first.class_chances, pixels**-0.5)
    assert second.rare_share == 0.4
    assert [first.sample_of(draw) for draw in range(20)] == [second.sample_of(draw) for draw in range(20)]


def test_without_rare_classes_every_image_comes_once(scenes: Path, tmp_path: Path, drawn: list[TrainingCrops]) -> None:
    run = perpixel.train(
        scenes, epochs=1, out=tmp_path / "run", rare_power=0, **TINY
    )  # one of eight is more than a tenth
    assert drawn[0].repeats.tolist() == [1] * 8 and drawn[0].class_chances is None
    lines = {line["setting"]: line for line in read_json(run.path / "plan.json")["lines"]}
    assert lines["repeat_threshold"]["value"] == 0 and "10%" in lines["repeat_threshold"]["reason"]


def test_the_binary_loss_weighs_by_the_counts_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_scenes(tmp_path / "skies", ["ground", "sky"])
    given: list[Any] = []
    build = tasks.create_loss

    def watch(spec: str, **settings: Any) -> Any:
        given.append(settings.get("class_pixels"))
        return build(spec, **settings)

    monkeypatch.setattr(tasks, "create_loss", watch)
    run = perpixel.train(data, epochs=1, loss="bce+lovasz_hinge", out=tmp_path / "run", **TINY)
    pixels = read_json(run.path / "fingerprint.json")["class_pixels"]["train"]
    assert given[-1] == pixels and len(pixels) == 2
    line = next(each for each in read_json(run.path / "plan.json")["lines"] if each["setting"] == "class_weights")
    assert line["value"] == "none" and f"{pixels[0] / pixels[1]:.3g}" in line["reason"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("bce", "class_pixels of 3 classes: the binary loss takes 2"),
        ("ce+lovasz_hinge", r"logits \(1, 3, 4, 4\): the binary losses take two classes"),
        ("focal:alpha=1/2", r"class_weights has shape \(2,\) for logits of 3 channels"),
    ],
)
def test_a_loss_that_does_not_suit_the_classes_is_refused_before_planning(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, message: str
) -> None:
    monkeypatch.setattr(preparing, "_plan", lambda *_: pytest.fail("planned first"))
    with pytest.raises(InputError, match=message):
        perpixel.train(scenes, epochs=1, loss=loss, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["rare_share", "rare_power", "repeat_threshold"])
def test_sampling_out_of_range_is_refused(scenes: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is -0\.1"):
        perpixel.train(scenes, epochs=1, out=tmp_path / "run", **TINY, **{name: -0.1})


def test_models_of_volumes_and_images_are_told_apart() -> None:
    images, volumes = (SimpleNamespace(root=Path("data"), spatial_dims=dims) for dims in (2, 3))
    preparing.refuse_other_dims("auto", volumes)  # type: ignore[arg-type]
    preparing.refuse_other_dims("unet", images)  # type: ignore[arg-type]
    preparing.refuse_other_dims("vnet", volumes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model 'vnet' takes volumes, but data holds images: .* unet, unet_valid"):
        preparing.refuse_other_dims("vnet", images)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model 'unet' takes images, but data holds volumes: .* vnet, .*unet3d"):
        preparing.refuse_other_dims("unet", volumes)  # type: ignore[arg-type]


def test_training_a_model_of_volumes_on_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model 'unet3d' takes volumes, but"):
        perpixel.train(write_scenes(tmp_path, ["ground", "sky"]), model="unet3d", out=tmp_path / "run", budget="5s")
