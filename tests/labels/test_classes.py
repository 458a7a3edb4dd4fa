"""The class table: its written forms, and file values -> class indices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpixel.errors import InputError
from perpixel.labels import ClassInfo, ClassTable


def table(values: list[Any], **options: Any) -> ClassTable:
    """A class for each value."""
    return ClassTable(tuple(ClassInfo(f"c{i}", (i % 256, 0, 0), (v,)) for i, v in enumerate(values)), **options)


# ---- written forms


def test_the_long_form() -> None:
    content = {
        "classes": [{"name": "a", "colour": [1, 2, 3], "values": [0, 7]}, {"name": "b", "color": "#ff0080", "id": "9"}],
        "ignore_values": [255, [1, 1, 1]],
        "others": "ignore",
    }
    expected = ClassTable(
        (ClassInfo("a", (1, 2, 3), (0, 7)), ClassInfo("b", (255, 0, 128), (9,))), (255, (1, 1, 1)), "ignore"
    )
    assert ClassTable.from_json(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        {"0": "background", "1": "cell"},
        {"background": 0, "cell": 1},
        ["background", "cell"],
        {"classes": ["background", "cell"]},
        {"classes": {"0": "background", "1": "cell"}},
        {"classes": ["background", "cell"], "values": {"0": "background", "1": "cell"}},
    ],
)
def test_the_short_forms_mean_the_same(content: Any) -> None:
    found = ClassTable.from_json(content)
    assert found.names == ("background", "cell")
    assert [one.values for one in found.classes] == [(0,), (1,)]


def test_several_values_of_one_name_and_colours_as_text() -> None:
    found = ClassTable.from_json({"#ff0000": "cell", "0 0 0": "rest", "(1, 2, 3)": "rest", "ignore_values": ["-1"]})
    assert found.classes == (
        ClassInfo("cell", (255, 0, 0), ((255, 0, 0),)),
        ClassInfo("rest", (0, 0, 0), ((0, 0, 0), (1, 2, 3))),
    )
    assert found.ignore_values == (-1,)


def test_the_class_at_the_ignored_value_is_none() -> None:
    found = ClassTable.from_json({"classes": ["sky", "void", "tree"], "ignore_index": 1})
    assert found.names == ("sky", "tree") and [one.values for one in found.classes] == [(0,), (2,)]
    assert found.ignore_values == (1,)


def test_the_tables_of_the_shared_data(shared_data: Path) -> None:
    for path in sorted(shared_data.glob("*/classes.json")):
        found = ClassTable.from_json(json.loads(path.read_text()), str(path))
        assert found.num_classes >= 2
        assert len({tuple(colour) for colour in found.colours.tolist()}) == found.num_classes


FILE_VALUE = st.one_of(st.integers(-(2**31), 2**32 - 1), st.tuples(*[st.integers(0, 255)] * 3))


@given(st.lists(FILE_VALUE, min_size=2, max_size=12, unique=True), st.sampled_from(["refuse", "ignore"]))
def test_json_round_trip(values: list[Any], others: str) -> None:
    one = table(values[1:], ignore_values=(values[0],), others=others)
    assert ClassTable.from_json(json.loads(json.dumps(one.to_json()))) == one


# ---- what is refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "a class table is an object or a list of names, not None: mend it"),
        ("cell", "a class table is an object or a list of names, not 'cell': mend it"),
        ([], "'classes' holds no class: list at least one name"),
        ({}, "'classes' holds no class: list at least one name"),
        ({"classes": 3}, "'classes' holds no class: list at least one name"),
        (["a", "a"], "class name 'a' stands twice: names must differ"),
        ([" "], "class name ' ' is not a line of text: give every class a name"),
        (["a\nb"], r"class name 'a\\nb' is not a line of text"),
        ([{"values": [1]}], "class name None is not a line of text"),
        ({"0": ["a"]}, r"'0' means \['a'\], which is no class name: write a text"),
        ({"0": "a", "x": "b"}, r"'x' is not a mask value: write a whole number, or a colour as \[red, green, blue\]"),
        ({"0": "a", "00": "b"}, "mask value 0 has two meanings: give each value one class, or ignore it"),
        ({"a": 1, "b": 1}, "mask value 1 has two meanings"),
        ([{"name": "a", "values": 3}], "values is 3: write a list of values"),
        ([{"name": "a", "values": [1.5]}], "1.5 is not a mask value"),
        ([{"name": "a", "values": [True]}], "True is not a mask value"),
        ([{"name": "a", "values": [2**40]}], f"{2**40} is not a mask value"),
        ([{"name": "a", "values": [[1, 2, 256]]}], r"\[1, 2, 256\] is not a mask value"),
        ([{"name": "a", "colour": 7}], r"7 is not a colour: write \[red, green, blue\], each 0\.\.255"),
        ([{"name": "a", "colour": []}], r"\[\] is not a colour"),
        ({"classes": ["a"], "values": ["a"]}, "values is \\['a'\\]: write an object such as"),
        (
            {"classes": ["a"], "values": {"0": "b"}},
            "value '0' means 'b', which is not among the classes: add it, or mend",
        ),
        ({"classes": ["a"], "ignore_values": 3}, "ignore_values is 3: write a list of values"),
        ({"classes": ["a"], "ignore_index": 0}, "every class is ignored: leave at least one to learn"),
        ({"classes": ["a"], "others": ["ignore"]}, r"others is \['ignore'\]: write \"refuse\" or \"ignore\""),
        ([{"name": "a", "values": [1, 2]}, {"name": "b", "values": [3]}, "c"], "mask value 2 has two meanings"),
        ([str(i) for i in range(65536)], "65536 classes: at most 65535 are possible"),
        ([{"name": "x" * 500, "values": ["y" * 500]}], r"'y{59}\.\.\. is not a mask value"),
    ],
)
def test_what_is_refused(content: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"^my\.json: {said}") as caught:
        ClassTable.from_json(content, "my.json")
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


# ---- encode


def test_encode_by_hand() -> None:
    one = ClassTable((ClassInfo("a", (0, 0, 0), (0, 5)), ClassInfo("b", (0, 0, 0), (9,))), ignore_values=(255,))
    label_map, unknown = one.encode(np.array([[0, 5, 9], [255, 7, 7]], np.uint8))
    assert label_map.dtype == np.uint8
    assert label_map.tolist() == [[0, 0, 1], [255, 255, 255]]
    assert unknown == {7: 2}


def test_others_may_be_ignored() -> None:
    one = table([0], others="ignore")
    label_map, unknown = one.encode(np.array([[0, 3]], np.uint8))
    assert label_map.tolist() == [[0, 255]] and unknown == {}


def test_colours_by_hand() -> None:
    one = table([(1, 2, 3), (255, 255, 255)], ignore_values=((0, 0, 0),))
    label_map, unknown = one.encode(np.array([[[1, 2, 3], [0, 0, 0]], [[255, 255, 255], [3, 2, 1]]], np.uint8))
    assert label_map.tolist() == [[0, 255], [1, 255]] and unknown == {(3, 2, 1): 1}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32, np.uint64, np.int16])
def test_every_integer_type(dtype: type[np.integer]) -> None:
    label_map, unknown = table([3, 100]).encode(np.array([[3, 100, 7]], dtype))
    assert label_map.tolist() == [[0, 1, 255]] and unknown == {7: 1}


def test_negative_and_large_values() -> None:
    one = table([-1, 2**31, 2**32 - 1, 70000])
    values = np.array([[-1, 2**31, 2**32 - 1, 70000, -2, 2**32]])
    label_map, unknown = one.encode(values)
    assert label_map.tolist() == [[0, 1, 2, 3, 255, 255]] and unknown == {-2: 1, 2**32: 1}
    assert one.encode(np.array([[255]], np.uint8)) == (255, {255: 1})


def test_bool_masks() -> None:
    assert table([0, 1]).encode(np.array([[True, False]]))[0].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("count", "dtype", "ignore"), [(255, np.uint8, 255), (256, np.uint16, 65535), (1000, np.uint16, 65535)]
)
def test_many_classes(count: int, dtype: type, ignore: int) -> None:
    one = table(list(range(count)))
    assert one.dtype is dtype and one.ignore_index == ignore
    values = np.arange(count + 1, dtype=np.uint16)[None]
    label_map, unknown = one.encode(values)
    assert label_map.dtype == dtype
    assert label_map[0, :-1].tolist() == list(range(count))
    assert label_map[0, -1] == ignore and unknown == {count: 1}


@settings(max_examples=40)
@given(st.data(), st.booleans(), st.sampled_from([3, 255, 300]))
def test_encoding_inverts_decoding(data: st.DataObject, is_colour: bool, count: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    keys = rng.choice(2**24, count, replace=False)
    values = [(int(k) >> 16, int(k) >> 8 & 255, int(k) & 255) if is_colour else int(k) for k in keys]
    one = table(values)
    label_map = rng.integers(0, count, (7, 9)).astype(one.dtype)
    decoded = np.array(values, np.uint8 if is_colour else np.int32)[label_map]
    encoded, unknown = one.encode(decoded)
    assert np.array_equal(encoded, label_map) and unknown == {}


def test_palette() -> None:
    few, many = table([0, 1]).palette(), table(list(range(300))).palette()
    assert few.shape == many.shape == (256, 3)
    assert few[1].tolist() == [1, 0, 0] and few[2].tolist() == [0, 0, 0] and few[255].tolist() == [128, 128, 128]
    assert many[255].tolist() == [255, 0, 0]
