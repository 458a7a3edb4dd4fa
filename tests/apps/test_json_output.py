from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from perpixel.apps.json_output import print_document, to_document


@dataclasses.dataclass
class Result:
    path: Path
    score: float


def test_results_become_plain_values() -> None:
    value = {"result": Result(Path("a/b"), math.nan), "array": np.array([[1.5, np.inf]]), "count": np.int64(3), 4: (1,)}
    assert to_document(value) == {
        "result": {"path": "a/b", "score": None}, "array": [[1.5, None]], "count": 3, "4": [1]
    }  # fmt: skip


def test_own_json_form_is_used() -> None:
    class Own:
        def to_json(self) -> dict[str, float]:
            return {"x": math.inf}

    assert to_document([Own()]) == [{"x": None}]


def test_what_has_no_json_form_is_our_mistake() -> None:
    with pytest.raises(TypeError, match="a object has no JSON form"):
        to_document(object())


def test_odd_names_do_not_break_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_document({"name": "\udcff\x1b é"})
    text = capsys.readouterr().out
    assert text.isascii() and json.loads(text) == {"name": "\udcff\x1b é"}
