"""Whole models in and out of a file."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from perpixel.errors import InputError
from perpixel.layers import BilinearUpsample
from perpixel.models import create_model, load_weights, save_weights

OPTIONS = {"width": 2, "depth": 2}


def small(seed: int = 0, **options) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("unet", **{"num_classes": 3, **OPTIONS, **options})


def test_save_and_load_return_every_tensor(tmp_path):
    model, other = small(0), small(1)
    model(torch.randn(2, 3, 8, 8))  # moves the batch statistics
    save_weights(model, tmp_path / "deep" / "model.safetensors", metadata={"made_by": "a test"})
    assert load_weights(other, tmp_path / "deep" / "model.safetensors") == ()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with safe_open(tmp_path / "deep" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"made_by": "a test"}


def test_channels_last_and_tied_weights_are_saved(tmp_path):
    model = small().to(memory_format=torch.channels_last)
    model.encoder.stages[0][1].conv.weight = model.encoder.stages[1][1].conv.weight
    save_weights(model, tmp_path / "m.safetensors")
    assert torch.equal(load_file(tmp_path / "m.safetensors")["head.weight"], model.head.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_classes": 5},
            r"2 of another shape \(first 'head.weight': \(3, 2, 1, 1\) where the model has \(5, 2, 1, 1\)",
        ),
        ({"depth": 3}, r"missing \(first 'encoder.stages.2.0.conv.weight'\)"),
        ({"norm": False}, r"missing \(first .*conv.bias'\), \d+ that the model does not know \(first .*norm\."),
    ],
)
def test_what_differs_is_named_and_nothing_is_loaded(tmp_path, options, message):
    save_weights(small(0), tmp_path / "m.safetensors")
    other = small(1, **options)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(other, tmp_path / "m.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_not_strict_loads_what_fits_and_names_the_rest(tmp_path):
    model, other = small(0), small(1, num_classes=5)
    save_weights(model, tmp_path / "m.safetensors")
    assert load_weights(other, tmp_path / "m.safetensors", strict=False) == ("head.weight", "head.bias")
    assert torch.equal(other.decoder[0].up.weight, model.decoder[0].up.weight)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no tensor fits UNet"):
        load_weights(other, tmp_path / "other.safetensors", strict=False)


def test_damaged_files_are_named(tmp_path):
    save_weights(small(), tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    for name, damaged in (("cut", content[:-40]), ("noise", bytes(reversed(content))), ("empty", b"")):
        (tmp_path / f"{name}.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}\.safetensors: not a readable safetensors file"):
            load_weights(small(), tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"gone\.safetensors: no such weights file"):
        load_weights(small(), tmp_path / "gone.safetensors")


def test_fcn_loads_the_authors_dense_upsamplers(tmp_path):
    model = create_model("fcn8s", num_classes=3, fc_channels=4)
    state = dict(model.state_dict())
    for name, part in model.named_modules():
        if isinstance(part, BilinearUpsample):
            state[f"{name}.weight"] = 2 * part.dense_weight()
    assert state["upsample.weight"].shape == (3, 3, 16, 16)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "dense.safetensors")
    kernel = model.upsample.weight.clone()
    load_weights(model, tmp_path / "dense.safetensors")
    assert torch.equal(model.upsample.weight, 2 * kernel)
    state["upsample.weight"] = torch.ones(3, 3, 16, 16)
    save_file(state, tmp_path / "mixed.safetensors")
    with pytest.raises(InputError, match=r"upsample\.weight: the dense kernel mixes channels"):
        load_weights(model, tmp_path / "mixed.safetensors")
