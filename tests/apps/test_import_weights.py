"""`import-weights`: a file goes in, a bundle comes out that predicts; what is wrong is one line and exit 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import perpixel
from perpixel.apps import cli
from perpixel.apps.import_weights import import_weights
from perpixel.errors import InputError

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's smallest segmentation model with VOC's 21 classes."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "lraspp.pth"
    torch.save(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict(), file)
    return file


@torch.no_grad()
def test_the_bundle_gives_torchvision_s_probabilities(checkpoint: Path, tmp_path: Path) -> None:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    from torchvision.transforms.functional import normalize

    made = import_weights("torchvision", checkpoint, out=tmp_path / "bundle")
    assert (made.model, made.options, made.is_trained) == ("lraspp", {"encoder": "mobilenet_v3_large"}, True)
    assert made.classes[:2] == ("background", "aeroplane")
    assert made.parameters == 3_221_538
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)
    prediction = perpixel.load(made.bundle, device="cpu").predict(image, probs=True)
    reference = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    reference.load_state_dict(torch.load(checkpoint, weights_only=True))
    scaled = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    expected = reference(normalize(scaled, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))["out"].softmax(1)[0]
    assert prediction.label_map.shape == (75, 101)
    assert np.abs(prediction.probs - expected.numpy()).max() < 1e-4
    assert prediction.classes.classes[1].colour == (128, 0, 0)  # VOC's


def test_names_may_be_given(checkpoint: Path, tmp_path: Path) -> None:
    names = [f"kind {number}" for number in range(21)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    made = import_weights("torchvision", checkpoint, out=tmp_path / "b", classes=tmp_path / "classes.json")
    assert made.classes == tuple(names)
    assert import_weights("torchvision", checkpoint, out=tmp_path / "c", classes=21).classes[0] == "background"


def test_the_command_ends_with_what_to_type_next(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "bundle"
    assert cli.main(["import-weights", "torchvision", str(checkpoint), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "torchvision lraspp_mobilenet_v3_large: lraspp with 21 classes, 3.22 M parameters" in said
    assert f"perpixel predict {out} IMAGES --out predictions" in said
    assert sorted(file.name for file in out.iterdir()) == [
        "README.md", "config.json", "metrics.json", "model.safetensors"
    ]  # fmt: skip
    assert "Weights of torchvision lraspp_mobilenet_v3_large (lraspp.pth)" in (out / "README.md").read_text()


def test_json_is_one_document(checkpoint: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "bundle"
    assert cli.main(["import-weights", "torchvision", str(checkpoint), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["bundle"], document["model"], len(document["classes"])) == (str(out), "lraspp", 21)


def test_a_classifier_becomes_a_bundle_to_start_from(tmp_path: Path, capsys: Captured) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    width = 4
    linear = {"0": nn.Linear(512 * 49, width), "3": nn.Linear(width, width)}
    state = {f"features.{name}": value for name, value in make_layers(cfgs["D"]).state_dict().items()}
    state |= {f"classifier.{number}.{name}": value for number, part in linear.items()
              for name, value in part.state_dict().items()}  # fmt: skip
    save_file(state, tmp_path / "vgg.safetensors")
    out = tmp_path / "bundle"
    words = ["import-weights", "classifier", str(tmp_path / "vgg.safetensors"), "--out", str(out), "--classes", "5"]
    assert cli.main([*words, "--model", "fcn16s"]) == 0
    said = capsys.readouterr().out
    assert "fcn16s with 5 classes" in said
    assert "scores start at zero" in said
    assert f"perpixel train DATA --start-from {out} --budget 10m" in said
    assert "perpixel predict" not in said
    config = json.loads((out / "config.json").read_text())
    assert config["model"] == {"name": "fcn16s", "options": {"backbone": "vgg16", "fc_channels": 4}}
    assert [one["name"] for one in config["classes"]["classes"]] == [f"class {number}" for number in range(5)]


def test_an_smp_folder_becomes_a_bundle(tmp_path: Path) -> None:
    import segmentation_models_pytorch

    model = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, in_channels=1, classes=1)
    model.save_pretrained(tmp_path / "saved")
    made = import_weights("smp", tmp_path / "saved", out=tmp_path / "bundle")
    assert made.classes == ("background", "foreground")
    prediction = perpixel.load(made.bundle, device="cpu").predict(np.zeros((40, 50), np.uint8))
    assert prediction.label_map.shape == (40, 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "torchvison"}, "unknown source 'torchvison'; did you mean 'torchvision'"),
        ({"classes": 3}, "--classes '3': 3, but .*lraspp.pth scores 21: give as many"),
        ({"classes": "0"}, "--classes '0': give 1 to 65535, or a classes.json"),
        ({"classes": "9" * 5000}, "give 1 to 65535"),
        ({"classes": "none.json"}, "none.json: no such file"),
        ({"model": "fcn8s"}, "--model 'fcn8s': source 'torchvision' recognises the model itself"),
        ({"source": "classifier"}, "--classes is missing"),
        ({"source": "classifier", "classes": 3}, "no classifier that FCN starts from"),
        ({"source": "smp"}, "lraspp.pth: no such folder"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    arguments: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"source": "torchvision"} | arguments
    with pytest.raises(InputError, match=message):
        import_weights(given.pop("source"), checkpoint, out=tmp_path / "bundle", **given)
    assert not (tmp_path / "bundle").exists()


def test_a_folder_in_use_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: choose another --out, or delete it"):
        import_weights("torchvision", checkpoint, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(InputError, match=r"note.txt: cannot be written, a file stands where a folder is needed"):
        import_weights("torchvision", checkpoint, out=tmp_path / "note.txt")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for source in ("torchvision", "classifier"):
        with pytest.raises(InputError, match=r"m\.pth: no such file: give the state dict, .pth or .safetensors"):
            import_weights(source, tmp_path / "m.pth", out=tmp_path / "bundle", classes=3)
        with pytest.raises(InputError, match=r"a folder, where a file is needed: give the state dict"):
            import_weights(source, tmp_path, out=tmp_path / "bundle", classes=3)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_exit_with_2(content: bytes, suffix: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / f"m{suffix}"
    file.write_bytes(content)
    assert cli.main(["import-weights", "torchvision", str(file), "--out", str(tmp_path / "bundle")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"perpixel: error: {file}")
    assert said.count("\n") == 1


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: Captured) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"backbone.conv1.weight": Trap()}, tmp_path / "m.pth")
    assert cli.main(["import-weights", "torchvision", str(tmp_path / "m.pth"), "--out", str(tmp_path / "b")]) == 2
    assert "cannot be opened as plain weights" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
