"""The generated pages say what the code does now, for every model."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from perpixel.models import DETECTORS, NETS, option_names
from perpixel.models.cards import CARDS
from perpixel.models.drawing_layout import lay_out

ROOT = Path(__file__).resolve().parent.parent
REMEDY = "run: python docs/make_models.py"


def load() -> ModuleType:
    """docs/make_models.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("make_models", ROOT / "docs" / "make_models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_models = load()


def test_every_model_has_a_card() -> None:
    assert list(CARDS) and set(CARDS) == set(NETS | DETECTORS)


@pytest.mark.parametrize("name", NETS)
def test_page_and_drawing_are_current(name: str) -> None:
    for path, text in (
        (make_models.page_path(name), make_models.page(name)),
        (make_models.figure_path(name), make_models.figure(name)),
    ):
        assert path.exists(), f"{path.relative_to(ROOT)} is missing; {REMEDY}"
        # Not an assertion, which would print the difference of two drawings.
        if path.read_text(encoding="utf-8") != text:
            pytest.fail(f"{path.relative_to(ROOT)} is not current; {REMEDY}")


@pytest.mark.parametrize("name", NETS)
def test_no_stage_of_a_drawing_lies_on_another(name: str) -> None:
    description = make_models.described(name)
    layout = lay_out(description.rows, description.edges, description.image, description.output)
    for one, other in combinations(layout.blocks.values(), 2):
        a, b = one.box, other.box
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"{one.name} lies on {other.name}"
    assert layout.width < 1400, "too wide to be read at 1000 pixels"
    sources = {edge.source for edge in description.edges}
    targets = {edge.target for edge in description.edges}
    names = {row.name for row in description.rows}
    assert names <= sources and names <= targets, "a stage that nothing enters, or whose output nothing uses"


@pytest.mark.parametrize("name", make_models.IMAGE_MODELS)
def test_measured_field_is_the_one_of_arithmetic(name: str) -> None:
    """Up to one cell of the coarsest map, by which it varies with the position; else --measure it again."""
    field, rows = make_models.fields()[name], make_models.described(name).rows
    theory, cell = rows[-1].receptive_field, max(row.stride for row in rows if row.stride <= make_models.COARSEST)
    if field["is_clipped"]:
        assert theory is None or theory + cell > field["side"]
        assert field["width"] == field["height"] == field["side"]
    else:
        assert abs(field["width"] - theory) <= cell and abs(field["height"] - theory) <= cell


def test_measurements_are_of_models_that_exist() -> None:
    assert list(make_models.fields()) == make_models.IMAGE_MODELS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch_cnn", "unet_valid", "fpn", "fcn_resnet"])
def test_measured_fields_are_found_again(name: str) -> None:
    kept, found = make_models.fields()[name], make_models.measure(name)
    for key in ("side", "width", "height", "is_clipped"):
        assert found[key] == kept[key]
    for key in ("effective_side", "mass_side"):  # other processors round otherwise
        assert found[key] == pytest.approx(kept[key], rel=0.05)


def test_the_tables_are_current_and_nothing_is_left_over() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    if make_models.with_parts(text) != text:
        pytest.fail(f"docs/models.md is not current; {REMEDY}")
    assert list(make_models.stale()) == [], REMEDY


@pytest.mark.parametrize("name", NETS)
def test_every_option_is_explained(name: str) -> None:
    words = make_models.option_words(name)
    missing = [option for option in option_names(NETS[name]) if not words.get(option)]
    assert not missing, f"{name}: the docstring's Args do not say what {', '.join(missing)} is"


def test_counts_are_the_ones_that_the_cards_expect() -> None:
    """A printed page with a number that no test backs would be worse than none."""
    for name, card in CARDS.items():
        for count in card.counts:
            found = make_models.counted(name, count)
            assert abs(found - count.expected) <= count.tolerance * count.expected, f"{name}, {count.label}: {found:,}"


def test_arguments_of_a_docstring_are_read() -> None:
    docstring = "Sum.\n\nMore.\n\nArgs:\n    one: what it\n        is.\n    two, three: a | b.\nRaises:\n    X: no."
    assert make_models._arguments(docstring) == {"one": "what it is.", "two": "a | b.", "three": "a | b."}
    assert make_models._table([("a", "b"), ("c|d", "1")], numbers_from=1) == "| a | b |\n| --- | ---: |\n| c\\|d | 1 |"


def test_check_names_what_is_not_current(monkeypatch, tmp_path, capsys) -> None:
    page = tmp_path / "docs" / "models" / "gone.md"
    page.parent.mkdir(parents=True)
    page.write_text("old")
    monkeypatch.setattr(make_models, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(make_models, "pages", lambda: iter([(tmp_path / "docs" / "models" / "unet.md", "new")]))
    assert make_models.main(["--check"]) == 1
    out = capsys.readouterr().out
    assert "no model any more: docs/models/gone.md" in out
    assert "not current: docs/models/unet.md" in out
    assert make_models.main([]) == 0
    assert not page.exists()
    assert (tmp_path / "docs" / "models" / "unet.md").read_text() == "new"
    assert make_models.main(["--check"]) == 0
