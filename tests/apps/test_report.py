"""The report: one file, complete, honest about what is missing, and not to be steered by names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perpixel.apps.report import write_report
from perpixel.apps.report_figures import draw_curves, draw_reliability, embed_picture, smooth
from perpixel.apps.report_parts import count_parameters, read_log, read_run
from perpixel.apps.report_views import css_colour, view_confusion, view_timing
from perpixel.apps.screens import make_console, show_scores
from perpixel.errors import InputError

FakeRun = Callable[..., Path]
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Tags that are open at the end or closed in the wrong order, and all addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(tag)


def page_of(run: Path) -> str:
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.wrong == [] and page.open == []
    return text


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_everything_is_on_the_page_and_nothing_outside_it(fake_run: FakeRun) -> None:
    run = fake_run(absent=7)
    text = page_of(run)
    for heading in (
        "Scores of every class",
        "What is taken for what",
        "Training",
        "The plan, and why",
        "Use this model",
    ):
        assert f"<h2>{heading}</h2>" in text
    miou = json.loads((run / "evaluation/test/scores.json").read_text())["scores"]["miou"]
    assert f"{miou:.3f}" in text and f"{miou - 0.02:.3f} to {miou + 0.02:.3f}" in text
    assert "imbalance 109: bicyclist has 0.3 % of the pixels" in text and "256, 256" in text
    assert "n_cc / (t_c + p_c - n_cc)" in text, "the evaluation's own definition is printed"
    assert text.count("data:image/png;base64") == 9 and text.count("data:image/jpeg;base64") == 6
    page = Page(text)
    assert all(a.startswith(("data:image/", "#")) for a in page.addresses)
    assert "script" not in page.tags and "default-src 'none'" in text
    assert not re.search(r"url\((?!#)", text), "styles fetch nothing; clip paths lie within the page"


def test_names_are_text_never_markup(fake_run: FakeRun) -> None:
    evil = "<script>alert(1)</script>"
    run = fake_run(names=(evil, 'b" onload="x', "c$x^2$", "d"))
    for case in ("truth", "image"):
        assert (run / f"evaluation/test/cases/best_{case}.png").is_file()
    change(run / "evaluation/test/scores.json", lambda scores: scores["cases"][0].update(name=f"{evil}.png"))
    change(run / "evaluation/test/scores.json", lambda scores: scores.update(colours=[["red;} body{", 1, 2]] * 4))
    change(run / "plan.json", lambda plan: plan["lines"].append({"setting": "x", "value": evil, "reason": evil}))
    change(run / "config.json", lambda config: config.update({evil: evil}))
    text = page_of(run)
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'onload="x' not in text and "body{" not in text


def test_an_unfinished_run_is_reported(fake_run: FakeRun) -> None:
    run = fake_run(names=("background", "cell"), evaluated=False, validations=1)
    text = page_of(run)
    assert "Not evaluated yet" in text and "perpixel evaluate" in text
    assert "of 1 validation<" in text


def test_a_run_without_a_single_step_is_reported(fake_run: FakeRun) -> None:
    run = fake_run(evaluated=False)
    for name in ("plan.json", "fingerprint.json", "check.json", "classes.json"):
        (run / name).unlink()
    (run / "log.jsonl").write_text('{"kind": "start", "total_steps": 9}\n{"kind": "st')
    assert "<h2>Training</h2>" not in page_of(run)


def test_scores_that_are_nothing_but_missing(fake_run: FakeRun) -> None:
    run = fake_run()

    def erase(scores: dict[str, Any]) -> None:
        scores["scores"] = dict.fromkeys(scores["scores"])
        scores["per_class"] = [{"name": row["name"], "iou": None} for row in scores["per_class"]]
        scores["confusion"] = [[0] * 11 for _ in range(11)]
        scores.update(cases=[], intervals={}, timing={}, colours=[], definitions={})

    change(run / "evaluation/test/scores.json", erase)
    assert "–" in page_of(run)


def test_a_picture_that_is_missing_broken_or_elsewhere_leaves_a_gap(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run()
    folder = run / "evaluation" / "test"
    Image.new("RGB", (4, 4)).save(tmp_path / "private.png")
    (folder / "cases" / "best_truth.png").unlink()
    (folder / "cases" / "best_error.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    change(folder / "scores.json", lambda s: s["cases"][1]["files"].update(image="../../../../private.png", truth=7))
    assert page_of(run).count('class="missing"') == 4


def test_out_may_be_a_file_or_a_folder(fake_run: FakeRun, tmp_path: Path) -> None:
    run = fake_run(names=("a", "b"))
    assert write_report(run) == run / "report.html"
    assert write_report(run, tmp_path / "page.html") == tmp_path / "page.html"
    assert write_report(run, tmp_path) == tmp_path / "report.html"


def test_the_same_run_gives_the_same_page(fake_run: FakeRun) -> None:
    run = fake_run(names=("a", "b"))
    assert page_of(run) == page_of(run)


def test_two_hundred_classes_stay_readable(fake_run: FakeRun) -> None:
    text = page_of(fake_run(names=tuple(f"class {i}" for i in range(200))))
    assert "The 30 classes with the most pixels are shown, 170 are left out" in text
    assert text.count('class="column"') == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation/test/scores.json", "{}", "scores.json: 'classes' is missing: evaluate the run again"),
        ("evaluation/test/scores.json", "[]", "scores.json: a list, not as perpixel writes it"),
        ("evaluation/test/scores.json", '{"a"', "scores.json: not valid JSON at line 1"),
        ("plan.json", '{"lines": [1]}', "plan.json: 'lines' is no list of objects"),
        ("fingerprint.json", '{"sizes": {"min": 1, "median": 2, "max": 3}}', "is not as perpixel writes it"),
    ],
)
def test_damaged_files(fake_run: FakeRun, name: str, content: str, message: str) -> None:
    run = fake_run(names=("a", "b"))
    (run / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        write_report(run)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder: check the path"):
        write_report(tmp_path / "none")
    with pytest.raises(InputError, match=r"not a run folder .* give the folder that train made"):
        write_report(tmp_path)


def test_steps_taken_again_after_a_resume_count_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [{"kind": "step", "step": i, "loss": 1.0} for i in range(1, 9)]
    again = [{"kind": "resume", "step": 5}, *[{"kind": "step", "step": i, "loss": 2.0} for i in range(6, 11)]]
    path.write_text("\n".join(json.dumps(event) for event in [*events, *again]) + '\n{"kind": "step", "st')
    steps = [event for event in read_log(path) if event["kind"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 11))
    assert [event["loss"] for event in steps] == [1.0] * 5 + [2.0] * 5


def test_confusions_in_words() -> None:
    view = view_confusion({"classes": ["a", "b", "c"], "confusion": [[8, 2, 0], [0, 5, 5], [0, 0, 0]]})
    assert [(p["truth"], p["predicted"], p["share"]) for p in view["largest"]] == [("b", "c", 0.5), ("a", "b", 0.2)]
    assert view["rows"][2]["cells"][0]["share"] is None, "a class without pixels has no shares"


def test_timing(fake_run: FakeRun) -> None:
    timing = view_timing(read_run(fake_run(names=("a", "b"))))
    assert timing["training_s"] == pytest.approx(520) and timing["steps"] == 400
    assert timing["waiting"] == pytest.approx(0.012 / 1.25) and timing["training_rate"] == 6.4


def test_curves_take_the_page_s_colour_and_skip_what_is_not_finite() -> None:
    log = [{"kind": "step", "step": i, "loss": None if i == 3 else 1 / i, "lr": 1e-3} for i in range(1, 9)]
    log.append({"kind": "validation", "step": 8, "miou": float("nan")})
    curves = draw_curves(log)
    assert [curve.title for curve in curves] == ["Training loss", "Learning rate"]
    assert all("currentColor" in curve.svg and "#010203" not in curve.svg for curve in curves)
    ids = [name for curve in curves for name in re.findall(r'id="(figure_1|axes_1)"', curve.svg)]
    assert ids == []


def test_smoothing_keeps_a_constant() -> None:
    assert smooth([0.7] * 50) == pytest.approx([0.7] * 50)


def test_pictures_are_shrunk_and_maps_keep_their_colours(tmp_path: Path) -> None:
    label_map = np.zeros((100, 200, 3), np.uint8)
    label_map[:, 100:] = (230, 159, 0)
    Image.fromarray(label_map).save(tmp_path / "map.png")
    address = embed_picture(tmp_path / "map.png", max_side=50, is_map=True)
    assert address is not None and address.startswith("data:image/png;base64,")
    assert embed_picture(tmp_path / "none.png", max_side=50, is_map=True) is None


def test_parameters_are_counted_from_the_header(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {},
            "conv.weight": {"dtype": "F32", "shape": [8, 3, 3, 3], "data_offsets": [0, 864]},
            "norm.running_mean": {"dtype": "F32", "shape": [8], "data_offsets": [864, 896]},
            "norm.num_batches_tracked": {"dtype": "I64", "shape": [], "data_offsets": [896, 904]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert count_parameters(tmp_path / "model.safetensors") == 216
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert count_parameters(tmp_path / "model.safetensors") is None


def test_colours_are_numbers_only() -> None:
    assert css_colour([300, -4, 7.9]) == "rgb(255, 0, 7)"
    assert css_colour("red;} body{display:none") == css_colour(None) == css_colour([1, 2, "x"]) == "rgb(128, 128, 128)"


def measured(scores: dict[str, Any]) -> None:
    """What evaluation adds to a scores.json where outlines, calibration, thin classes and objects are measured."""
    for row in scores["per_class"]:
        row.update(bf=0.412, boundary_iou=0.345, nsd=0.501, hd95=12.34, asd=3.21, one_sided_images=2)
    scores["per_class"][0].update(bf=None, hd95=None)
    scores["scores"].update(bf_score=0.3871, boundary_miou=0.3, mean_nsd=0.5, mean_hd95=123.4, mean_asd=None)
    scores["intervals"].update(bf_score=[0.37, 0.4], boundary_miou=[None, None])
    scores["definitions"].update(bf="what <BF> means", ece="what ECE means", cldice="what clDice means")
    scores["boundary"] = {"near": "0.75 % of the image's diagonal", "unit": "pixels"}
    bins = [{"pixels": 100 * k, "confidence": (k + 0.5) / 5, "accuracy": k / 5 if k else None} for k in range(5)]
    scores["calibration"] = {"ece": 0.0517, "mce": 0.2, "mean_confidence": 0.7, "bins": bins}
    thin = {"name": "pole<", "cldice": 0.66, "topology_precision": 0.7, "topology_sensitivity": None}
    scores["thin"] = [{**thin, "cldice_per_image": 0.6}]
    pairs = dict.fromkeys(("v_rand_split", "v_rand_merge", "v_info_split", "v_info_merge"), 0.9)
    scores["objects"] = {
        "class": "cell",
        "true_objects": 7,
        "v_rand": 0.97,
        "v_info": 0.98,
        "rand_error": 0.03,
        **pairs,
    }


def test_outlines_calibration_and_special_measures(fake_run: FakeRun) -> None:
    run = fake_run()
    plain = page_of(run)
    assert 'id="outlines"' not in plain and 'id="calibration"' not in plain and 'id="special"' not in plain
    change(run / "evaluation/test/scores.json", measured)
    text = page_of(run)
    for part in ("Outlines of every class", "what &lt;BF&gt; means", "0.345", "12.3", "BF score <b>0.387</b>"):
        assert part in text, part
    for part in ("Can its probabilities be believed?", "0.052", "what ECE means", "share correct"):
        assert part in text, part
    for part in ("clDice of pole&lt;", "what clDice means", "V_Rand of cell", "0.970"):
        assert part in text, part


def test_a_reliability_diagram_without_pixels_is_left_out() -> None:
    assert draw_reliability([]) is None
    assert draw_reliability([{"pixels": 0, "confidence": None, "accuracy": None}] * 3) is None
    drawn = draw_reliability([{"pixels": 3, "confidence": 0.4, "accuracy": 0.5}, {"pixels": 0, "accuracy": None}])
    assert drawn is not None and drawn.startswith("<svg")


def test_the_terminal_shows_them_too(fake_run: FakeRun) -> None:
    run = fake_run()
    change(run / "evaluation/test/scores.json", measured)
    screen = io.StringIO()
    show_scores(make_console(screen), json.loads((run / "evaluation/test/scores.json").read_text()))
    text = screen.getvalue()
    for part in (
        "BF score",
        "0.387",
        "0.370 to 0.400",
        "calibration error",
        "0.052",
        "clDice of pole<",
        "V_Rand of cell",
    ):
        assert part in text, part
    assert "outlines of" in text and "12.3" in text and "0.75 % of the image's diagonal" in text
