"""Weights from local files, and pretrained stems on other channel counts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from perpixel.encoders import adapt_stem_weight, create_encoder, read_state_dict
from perpixel.errors import InputError

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def timm_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model(SMALL, num_classes=10).state_dict()


@pytest.fixture(scope="module")
def timm_file(timm_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm_state, path)
    return path


def test_one_channel_sums_and_others_repeat():
    weight = torch.randn(4, 3, 3, 3)
    assert torch.allclose(adapt_stem_weight(weight, 1)[:, 0], weight.sum(1))
    assert adapt_stem_weight(weight, 3) is weight
    five = adapt_stem_weight(weight, 5)
    assert torch.allclose(five, weight[:, [0, 1, 2, 0, 1]] * 0.6)


def test_timm_weights_from_a_file(timm_file, timm_state):
    encoder = create_encoder(SMALL, weights=timm_file)
    assert torch.equal(encoder.net.state_dict()["conv_stem.weight"], timm_state["conv_stem.weight"])
    grey = create_encoder(SMALL, in_channels=1, weights=timm_file)
    assert torch.allclose(grey.net.state_dict()["conv_stem.weight"][:, 0], timm_state["conv_stem.weight"].sum(1))


def test_timm_features_are_the_networks_own(timm_file, timm_state):
    reference = timm.create_model(SMALL, num_classes=10)
    reference.load_state_dict(timm_state)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.eval().forward_intermediates(image, intermediates_only=True)
        features = create_encoder(SMALL, weights=timm_file).eval()(image)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(features, expected[-len(features) :]))


def test_torchvision_weights_from_a_pth_file(tmp_path):
    torch.manual_seed(4)
    net = torchvision.models.shufflenet_v2_x0_5(weights=None).eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "n.pth"
    )
    encoder = create_encoder("torchvision/shufflenet_v2_x0_5", weights=str(tmp_path / "n.pth")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = net.conv5(net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(image))))))
        assert torch.equal(encoder(image)[-1], maps)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_a_pickled_object_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"a": Harmful()}))
    with pytest.raises(InputError, match=r"bad\.pth: cannot be opened as plain weights"):
        read_state_dict("bad.pth")
    torch.save({"a": Harmful()}, "zipped.pth")
    with pytest.raises(InputError, match=r"zipped\.pth: .*: it holds more than tensors \(\S+\): save only model"):
        read_state_dict("zipped.pth")
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"", "not a readable safetensors file"),
        ("a.safetensors", b"\xff" * 64, "not a readable safetensors file"),
        ("a.pth", b"", "cannot be opened as plain weights"),
        ("a.pth", b"garbage", "cannot be opened as plain weights: it is empty, damaged or no PyTorch file: copy"),
        ("a.onnx", b"x", "must be a .safetensors file or a"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / name)


def test_a_truncated_file_is_named(timm_file, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(timm_file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.safetensors: not a readable safetensors file"):
        read_state_dict(tmp_path / "cut.safetensors")


def test_old_torch_files_cut_anywhere_are_named(tmp_path):
    """They are plain pickles, which fail in many ways."""
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pth").read_bytes()
    for length in range(1, len(content) - 1, 9):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.pth: cannot be opened as plain weights"):
            read_state_dict(tmp_path / "cut.pth")


def test_something_else_than_tensors_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="does not hold a state dict of tensors"):
        read_state_dict(tmp_path / "list.pt")


def test_another_networks_file_is_named(timm_file):
    with pytest.raises(InputError, match=r"lacks \d+ of the \d+ tensors of encoder 'resnet18', first 'conv1.weight'"):
        create_encoder("resnet18", weights=timm_file)
    with pytest.raises(InputError, match=r"tensor '.*' is \(.*\), encoder 'mobilenetv3_small_075' needs"):
        create_encoder("mobilenetv3_small_075", weights=timm_file)
    with pytest.raises(InputError, match="lacks"):
        create_encoder("torchvision/shufflenet_v2_x0_5", weights=timm_file)


def test_a_network_without_pretrained_weights_says_so():
    name = next(each for each in timm.list_models("resnet*") if not timm.models.get_pretrained_cfg(each).has_weights)
    with pytest.raises(InputError, match=f"encoder '{name}' has no pretrained weights"):
        create_encoder(name, weights="imagenet")


def test_a_failed_download_is_an_input_error(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", _failing_when_pretrained(timm.create_model, fail))
    with pytest.raises(InputError, match=r"'resnet18' could not be downloaded \(no route to host\)"):
        create_encoder("resnet18", weights="imagenet")
    monkeypatch.setattr(torchvision.models, "get_model", fail)
    with pytest.raises(InputError, match=r"'torchvision/resnet18' could not be downloaded \(no route to host\)"):
        create_encoder("torchvision/resnet18", weights="imagenet")


def _failing_when_pretrained(build, fail):
    return lambda name, pretrained=False, **options: fail() if pretrained else build(name, **options)
