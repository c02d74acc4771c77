"""Does the page hold what it should, and nothing that lies outside it?"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.records.findings import Curves, Matrix, Scalar, append_findings
from pipeline.reports.reading import read_run
from pipeline.reports.report import Report, read_runs, write_report
from tests.pipeline.reports.folders import make_run

_VOID = ("meta", "br", "img", "wbr", "use")


class _Tree(HTMLParser):
    """Headings, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two seeds, and one of another rate that is being written, of eight stages (which are drawn as maps)."""
    folder = tmp_path_factory.mktemp("runs")
    whole = [make_run(folder / f"seed-{seed}", seed=seed, losses=(2.0, 1.5, 1.2, 1.0 + seed)) for seed in (0, 1)]
    cut = make_run(folder / "cut", lr=0.3, num_stages=8, summary=False, accuracy=None)
    append_findings(
        whole[0] / "findings" / "hessian.jsonl",
        [
            *(
                Scalar(tag="hessian/trace", step=step, stage=stage, value=1.0 + step)
                for step in (10, 20)
                for stage in (0, 1)
            ),
            Curves(tag="hessian/spectrum", step=20, stage=0, x=[0, 1], x_label="x", y_label="y", curves={"a": [0, 1]}),
            Matrix(tag="cka", step=20, stage=None, rows=["a", "b"], columns=["a", "b"], values=[[1, 0.5], [0.5, 1]]),
        ],
    )
    runs, notes = read_runs([*whole, cut, whole[0]])
    return write_report(runs, folder / "report", title="Two & <three>", notes=notes)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return report.html.read_text()


def test_page_needs_nothing_but_itself(html: str) -> None:
    tree = _Tree(html)
    assert tree.open == [] and not {"script", "link", "iframe"} & tree.tags
    assert all(source.startswith(("data:", "#")) for source in tree.sources)
    assert not re.search(r"https?:|@import|url\((?!#)", html)


def test_page_escapes_what_comes_from_outside(html: str) -> None:
    assert "<title>Two &amp; &lt;three&gt;</title>" in html
    assert "<b>chip" not in html and "units of &lt;0&gt;" in html


def test_page_has_every_part(html: str) -> None:
    parts = (
        "runs",
        "numbers",
        "curves",
        "stages",
        "gradients",
        "structure",
        "timelines",
        "edges",
        "findings",
        "limits",
    )
    assert [part for part in parts if f'<section id="{part}">' not in html] == []
    assert "1.50 ± 0.71" in html, "the spread of the last loss"
    assert "0.4 (1 of" not in html and "around the sync at step 25" in html


def test_page_says_what_it_could_not_read(report: Report, html: str) -> None:
    limits = html[html.index('<section id="limits">') :]
    assert "cut: there is no summary.json: the run goes on, or was killed" in limits
    assert "seed-0 was named more than once and counts once" in limits
    assert len(report.groups) == 2 and [len(group.runs) for group in report.groups] == [2, 1]


def test_every_picture_of_the_page_is_also_a_file(report: Report, html: str) -> None:
    assert len(report.pictures) == len(set(report.pictures)) == html.count("<figure>")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.pictures)


def test_metric_that_one_run_lacks_is_no_obstacle(html: str) -> None:
    row = next(row for row in html.split("<tr>") if row.startswith("<td>test accuracy"))
    assert re.findall(r"<td>(.*?)</td>", row) == ["test accuracy", "0.9", "-"]


def test_lines_of_one_name_in_several_stages_are_told_apart(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for stage, names in enumerate((("rate/a",), ("rate/a", "rate/b"))):
        with (folder / "metrics" / f"stage-{stage}.jsonl").open("a") as file:
            file.writelines(json.dumps({"step": 3, "time": 1000.0, name: 1.0}) + "\n" for name in names)
    html = write_report([read_run(folder)], tmp_path / "report").html.read_text()
    assert ">stage 0: a<" in html and ">stage 1: a<" in html and ">b<" in html


def test_report_that_cannot_be_written_says_where_and_what_to_do(tmp_path: Path) -> None:
    """In 0.3, a full disk was an OSError without advice."""
    run, out = read_run(make_run(tmp_path / "run")), tmp_path / "report"
    (out / "report.html").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"report\.html cannot be written: .*choose another --out"):
        write_report([run], out)
    assert not (out / "report.html.tmp").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pictures").write_text("a file where the folder should be")
    with pytest.raises(ConfigurationError, match=r"\.png cannot be written: .*choose another --out"):
        write_report([run], tmp_path / "other")


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name at least one run"):
        read_runs([])
