import csv
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from rl_crop.evaluation.figures.compose import curve_picture, study_styles, task_pictures
from rl_crop.evaluation.figures.inline import inline_svg
from rl_crop.evaluation.figures.style import arm_styles, label, spread
from rl_crop.evaluation.report_html import write_page
from rl_crop.evaluation.study_report import study_sections, write_files
from rl_crop.evaluation.tables import Table, arms_table, missing_table, runs_table
from tests.evaluation.studies import Key, make_results

AUTOMATIC = {"when": "lazy", "cut": 0.2}


@pytest.fixture(scope="module")
def results():
    """Two environments, one of them with holes; one arm has an odd name."""
    arms = {
        ("a", "dense", "0"): [90.0, 100.0, 110.0], ("a", "crop", "0.9"): [80.0, 85.0, 99.0],
        ("a", "random", "0.9"): [10.0, 20.0, 15.0], ("a", "early", "0.9"): [50.0, 95.0, 70.0],
        ("b", "dense", "0"): [1.0], ("b", "a<b&c", "0.9"): [0.5, 0.7],
    }  # fmt: skip
    times = {"crop": AUTOMATIC, "early": {"when": 0.1, "cut": 0.1}, "random": AUTOMATIC}
    failures, missing = [Key("a", "crop", "0.9", 3)], [Key("b", "dense", "0", 1)]
    return make_results(arms, {"a": [0.0]}, failures, missing, times)


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.open = Counter(), Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags[tag] += 1
        self.ids[values.get("id")] += 1
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.links += re.findall(r"url\(([^)]*)\)", values.get("style") or "")
        self.links += re.findall(r"url\(([^)]*)\)", values.get("clip-path") or "")


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    sections = study_sections(results)
    write_files(sections, folder, "Study: a & b")
    return write_page(results, sections, folder / "report.html", "Study: a & b", "python x.py").parent


def test_the_page_needs_nothing_else(report):
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    assert page.links and all(link.startswith("#") for link in page.links)
    assert all(link[1:] in page.ids for link in page.links)
    assert all(count == 1 for name, count in page.ids.items() if name)
    assert page.tags["script"] == page.tags["style"] == 1 and page.tags["svg"] > 10


def test_the_page_can_be_filtered_by_everything_that_it_shows(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<!-- \w+ -->", text)  # every part has its text
    boxes = set(re.findall(r'data-filter="(\w+)" value="([^"]*)"', text))
    assert boxes == {
        *(("task", task) for task in "ab"),
        *(("arm", arm) for arm in ("dense", "crop", "early", "random", "a&lt;b&amp;c")),
        *(("seed", seed) for seed in "0123"),
        ("sparsity", "0.9"),
    }
    for name in ("task", "arm", "sparsity", "seed"):
        values = {(name, value) for value in re.findall(rf' data-{name}="([^"]*)"', text)}
        assert values <= boxes | {(name, "*"), ("sparsity", "0")}


def test_files_of_the_report(report, results):
    pictures = sorted(path.name for path in (report / "pictures").iterdir())
    expected = {f"{task}_{kind}" for task in "ab" for kind in ("parameters", "costs", "widths", "curves")}
    assert expected <= {name.rsplit(".", 1)[0] for name in pictures}
    assert {name.rsplit(".", 1)[1] for name in pictures} == {"png", "svg"}
    text = (report / "tables.md").read_text(encoding="utf-8")
    assert all(f"(pictures/{name})" in text for name in pictures if name.endswith(".png"))
    assert "failed: it broke" in text and "fewer than 3 seeds" in text
    rows = list(csv.DictReader((report / "tables" / "a_runs.csv").open(encoding="utf-8")))
    assert len(rows) == 13 and rows[0]["widths"] == "pi 64, 65; vf 64"
    assert sum(row["final return"].startswith("failed") for row in rows) == 1


def test_all_environments_stand_beside_those_that_tell_arms_apart():
    arms = {(task, "dense", "0"): [90.0, 100.0, 110.0] for task in "ab"}
    arms |= {("a", "random", "0.9"): [10.0, 20.0, 15.0], ("b", "random", "0.9"): [95.0, 105.0, 100.0]}
    arms |= {(task, "crop", "0.9"): [80.0, 90.0, 85.0] for task in "ab"}
    section = study_sections(make_results(arms, {"a": [0.0], "b": [0.0]}))[0]
    apart, everywhere = (table for table in section.tables if table.title.startswith("Probability of improvement"))
    assert everywhere.title == "Probability of improvement in all environments"
    crop = [{row[0]: row for row in table.rows}["crop 90 %"] for table in (apart, everywhere)]
    # in a crop beats random on all three seeds, in b on none
    assert [(row[2], row[3][:4], row[4]) for row in crop] == [("a", "1.00", "3–0–0"), ("a, b", "0.50", "3–0–3")]


def test_tables_of_a_study_name_what_is_not_there(results):
    table = missing_table(results)
    assert table.rows == [["a", "crop", "0.9", "3", "failed: it broke"], ["b", "dense", "0", "1", "not run yet"]]
    assert table.tags[0] == {"task": "a", "arm": "crop", "sparsity": "0.9", "seed": "3"}


def test_table_of_arms(results):
    table = arms_table(results, "a")
    rows = {row[0]: dict(zip(table.columns, row)) for row in table.rows}
    assert list(rows) == ["dense", "crop 90 %", "early 90 %", "random 90 %"]  # the best first
    crop = rows["crop 90 %"]
    assert crop["seeds"] == "4, 1 failed" and crop["final return by seed"] == "80.0, 85.0, 99.0, 0.0"
    assert crop["IQM [95 %]"].startswith("82.5 [") and crop["non-inferior"] == "not shown (margin 0.95)"
    assert crop["widths"] == "pi 6–8, 7–9; vf 6–8" and crop["cut at"] == "20 %" and crop["parameters"] == "60–80"
    assert rows["dense"]["non-inferior"] == "–"
    assert len(runs_table(results, "a").rows) == 13


def test_tables_as_text():
    table = Table("t", ("a|b", "n"), [["x", "1,234"], ["y, z", "–"]])
    assert table.to_markdown() == "| a\\|b | n |\n| --- | --- |\n| x | 1,234 |\n| y, z | – |\n"
    assert table.to_csv() == 'a|b,n\nx,1234\n"y, z",–\n'


def test_a_picture_in_a_page_keeps_its_cells(results):
    (picture,) = [picture for picture in task_pictures(results, "a") if picture.name == "a_parameters"]
    text = inline_svg(picture)
    assert text.startswith("<svg ") and text.endswith("</svg>") and "cell|" not in text
    dots = re.findall(r'data-arm="crop" data-sparsity="0.9" data-seed="(.)"', text)
    assert set(dots) == {"0", "1", "2", "*"}
    odd = curve_picture(results, "b", [("a<b&c", "0.9")], "b_odd")
    assert 'data-arm="a&lt;b&amp;c"' in inline_svg(odd)


def test_pictures_that_would_show_nothing_are_not_made():
    alone = make_results({("a", "dense", "0"): [1.0, 2.0]})
    assert task_pictures(alone, "a") == []
    (section,) = (section for section in study_sections(alone) if section.task == "a")
    assert [picture.name for picture in section.pictures] == ["a_curves"]


def test_pictures_can_be_made_again(results, tmp_path):
    first, second = (task_pictures(results, "a")[0].save(tmp_path / name) for name in "12")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_arm_has_one_style_everywhere_and_no_two_have_the_same(results):
    some, more = arm_styles(["dense", "span_crop"]), arm_styles(["a", "random", "dense", "span_crop", *"bcdefghijk"])
    assert all(more[arm] == style for arm, style in some.items())
    assert len(set(more.values())) == len(more)
    assert next(iter(study_styles(results))) == "dense"


def test_labels_and_places():
    assert label("dense", "0") == "dense" and label("crop", "0.95") == "crop 95 %" and label("crop", "0.995") == "crop 99.5 %"
    assert label("crop", "actor0.9_critic0.8") == "crop actor0.9_critic0.8"
    assert [spread(i, 3, 2.0) for i in range(3)] == [-1.0, 0.0, 1.0] and spread(0, 1, 2.0) == 0
