"""The report of a study as one page that needs nothing else: no network, no other file."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from rl_crop.evaluation.figures.compose import Picture, study_styles
from rl_crop.evaluation.figures.inline import inline_svg
from rl_crop.evaluation.figures.style import percent
from rl_crop.evaluation.results import Results
from rl_crop.evaluation.study_report import METHODS, Section
from rl_crop.evaluation.tables import Table
from rl_crop.files import write_text

_FOLDED = ("Probability of improvement",)


def write_page(results: Results, sections: Sequence[Section], path: Path, title: str, command: str) -> Path:
    """Write the page, which names the command that makes it again. :return: the path written"""
    resources = files("rl_crop.evaluation") / "report"
    page, style, script = (resources.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    links = "".join(f'<a href="#{escape(section.name)}">{escape(section.title)}</a>' for section in sections)
    parts = {
        "title": escape(title),
        "command": escape(command),
        "summary": _notes(sections[-1].notes),  # how many cells have a result
        "links": links,
        "filters": _filters(results),
        "sections": "\n".join(_section(section) for section in sections),
        "methods": "".join(f"<li>{escape(sentence)}</li>" for sentence in METHODS),
        "style": style,
        "script": script,
    }
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    return write_text(path, page)


def _filters(results: Results) -> str:
    keys = results.keys
    colors = {arm: style.color for arm, style in study_styles(results).items()}
    groups: dict[str, dict[str, str]] = {
        "task": {task: task for task in sorted(set(keys["task"]))},
        "arm": {arm: arm for arm in [*colors, *sorted(set(keys["arm"]) - set(colors))]},
        "sparsity": {level: percent(level) for level in sorted(set(keys["sparsity"]) - {"0"})},
        "seed": {str(seed): str(seed) for seed in sorted(set(keys["seed"]))},
    }
    return "".join(_filter(name, values, colors if name == "arm" else {}) for name, values in groups.items())


def _filter(name: str, values: Mapping[str, str], colors: Mapping[str, str]) -> str:
    chips = "".join(
        f'<label><input type="checkbox" data-filter="{name}" value="{escape(value)}" checked>'
        + (f'<i style="background:{colors[value]}"></i>' if value in colors else "")
        + f"<span>{escape(text)}</span></label>"
        for value, text in values.items()
    )
    switch = f'<button type="button" data-all="{name}">all</button><button type="button" data-none="{name}">none</button>'
    return f'<fieldset><legend>{name}</legend><div class="chips">{chips}{switch}</div></fieldset>'


def _section(section: Section) -> str:
    whole = section.pictures[:-1] if section.panels else section.pictures
    body = [_table(table) for table in section.tables if table.title != "Runs"]
    body.append(f'<div class="figures">{"".join(_figure(picture) for picture in whole)}</div>')
    if section.panels:
        panels = "".join(_figure(picture, caption=False) for picture in section.panels)
        body.append(f'<h3>{escape(section.panels[0].title)}</h3><div class="figures">{panels}</div>')
    body += [_table(table) for table in section.tables if table.title == "Runs"]
    task = f' data-task="{escape(section.task)}"' if section.task else ""
    head = f"<h2>{escape(section.title)}</h2>{_notes(section.notes)}"
    return f'<section id="{escape(section.name)}"{task}>{head}{"".join(body)}</section>'


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def _figure(picture: Picture, caption: bool = True) -> str:
    below = f"<figcaption>{escape(picture.title)}</figcaption>" if caption else ""
    return f"<figure{_attributes(picture.cells)}>{below}{inline_svg(picture)}</figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button type="button">{escape(column)}</button></th>' for column in table.columns)
    rows = "".join(
        f"<tr{_attributes(tags)}>" + "".join(map(_cell, row)) + "</tr>" for row, tags in zip(table.rows, table.tags)
    )
    if not rows:
        return f"<h3>{escape(table.title)}</h3><p>None.</p>"
    table_html = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    head, scroll = f"<h3>{escape(table.title)}</h3>", f'<div class="scroll">{table_html}</div>'
    # A figure says the same: the numbers are there for those who ask.
    return f"<details><summary>{head}</summary>{scroll}</details>" if table.title in _FOLDED else head + scroll


def _cell(text: str) -> str:
    return f'<td class="long">{escape(text)}</td>' if len(text) > 40 else f"<td>{escape(text)}</td>"


def _attributes(cells: Mapping[str, str]) -> str:
    return "".join(f' data-{name}="{escape(value)}"' for name, value in cells.items())
