"""The config.json that segmentation-models-pytorch writes: every setting taken once, what is not known refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perpixel.encoders.resnet import UNITS
from perpixel.errors import InputError
from perpixel.models.foreign.foreign import imagenet_statistics

# torchvision's ResNeXts, which timm has under the same names of network and tensors.
RESNEXTS = ("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d", "resnext101_32x32d")
# Settings that every class has and that leave the logits alone, once the two heads are read as below.
HARMLESS = {"encoder_weights", "activation", "aux_params", "classes", "in_channels", "encoder_name", "encoder_depth"}


class Settings:
    """The settings of one folder, each taken once, so that those nobody has asked for can be refused."""

    def __init__(self, config: dict[str, Any], where: Path) -> None:
        self._config = {name: value for name, value in config.items() if not name.startswith("_")}
        self.where = where
        self._read = set(HARMLESS)
        self.notes: list[str] = []
        self.encoder_name = str(self._config.get("encoder_name", "resnet34"))
        self.in_channels = self.take_count("in_channels", 3)
        self.classes = self.take_count("classes", 1)
        self.depth = self.take_count("encoder_depth", 5)
        if self._config.get("activation") not in (None, "identity"):
            self.notes.append(f"Its activation '{self._config['activation']}' is left out: models here return logits.")
        if self._config.get("aux_params") is not None:
            self.notes.append("Its classification head is left out.")

    def refusal(self, name: str, value: Any, why: str) -> InputError:
        return InputError(f"{self.where}: {name} is {value!r}: {why}")

    def take(self, name: str, default: Any, allowed: tuple[Any, ...] | None = None) -> Any:
        """The value of a setting; one outside `allowed` is refused."""
        self._read.add(name)
        value = self._config.get(name, default)
        if allowed is not None and value not in allowed:
            shown = " or ".join(repr(each) for each in allowed)
            raise self.refusal(name, value, f"only {shown} can be converted")
        return value

    def take_count(self, name: str, default: int) -> int:
        """A whole number from 1 on."""
        value = self.take(name, default)
        if not _is_count(value):
            raise self.refusal(name, value, "it must be a whole number from 1 on")
        return int(value)

    def take_numbers(self, name: str, default: tuple[int, ...], length: int) -> list[int]:
        """A list of so many whole numbers from 1 on."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple) or len(value) != length or not all(map(_is_count, value)):
            raise self.refusal(name, value, f"it must be a list of {length} whole numbers from 1 on")
        return [int(each) for each in value]

    def take_share(self, name: str, default: float) -> float:
        """A probability."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self.refusal(name, value, "it must be a probability from 0 to below 1")
        return float(value)

    def take_depth(self, depth: int) -> None:
        """Refuse another encoder_depth."""
        if self.depth != depth:
            raise self.refusal("encoder_depth", self.depth, f"only {depth} can be converted for this class")

    def check_all_read(self) -> None:
        """Refuse settings that were not asked for: they change the network, or the encoder, in a way not known here."""
        left = {name: value for name, value in self._config.items() if name not in self._read and value is not None}
        for name, value in left.items():
            raise self.refusal(name, value, "this setting is not known here, so the network cannot be rebuilt")

    @property
    def is_timm(self) -> bool:
        """Whether the encoder is one of timm's through smp's universal adapter."""
        return self.encoder_name.startswith("tu-")

    def encoder(self) -> dict[str, Any]:
        """Options that name the encoder here.

        Raises:
            InputError: an encoder whose tensors have no place in one of ours.
        """
        name = self.encoder_name
        if name in UNITS:
            return {"encoder": name, "variant": "b"}
        if self.is_timm or name in RESNEXTS:
            return {"encoder": name.removeprefix("tu-"), "variant": None}
        raise self.refusal(
            "encoder_name",
            name,
            f"only {', '.join(UNITS)}, {', '.join(RESNEXTS)} and timm's (tu-NAME) can be converted",
        )

    def encoder_names(self) -> list[tuple[str, str]]:
        """Where the encoder's tensors go."""
        return [("encoder.model." if self.is_timm else "encoder.", "encoder.net.")]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
        """(mean, std, notes) of smp's preprocessing for this encoder."""
        mean, std, notes = imagenet_statistics(self.in_channels)
        if self.is_timm and self.in_channels == 3:
            import timm

            trained = timm.get_pretrained_cfg(self.encoder_name.removeprefix("tu-"))
            if trained is not None:
                mean, std = tuple(trained.mean), tuple(trained.std)
        return mean, std, notes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
