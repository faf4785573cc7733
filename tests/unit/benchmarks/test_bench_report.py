"""What a run of the benchmark says of its figures, in the table, in the docs and in the picture."""

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks import chart, report
from benchmarks.__main__ import APART, listed
from benchmarks.figures import Figure, number
from benchmarks.report import Run, bar, markdown

ROOT = Path(__file__).parents[3]

RATE = Figure("backlog of 100 drained by this project, threads 8", 29_876.5, "interactions/s")
OTHER = Figure("backlog of 10 drained by <another>", 300, "interactions/s")
AHEAD = Figure("drained, against another", 99.6, "×", 60)
SHORT = Figure("calls, against what is allowed", 1.2, "×", 1.1, least=False)


def run(*figures: Figure, rounds: int = 3) -> Run:
    """Make a run of one measure."""
    return Run("1 January 2026", "a processor, 2 cores", "Python 3.11", rounds, {"drain": list(figures)})


@pytest.mark.parametrize(
    ("value", "least", "held"),
    [(60, True, True), (59.9, True, False), (60, False, True), (60.1, False, False)],
)
def test_a_bar_is_held_when_reached(value: float, least: bool, held: bool) -> None:
    """At the bar it is held; short of a minimum or past a maximum it is not."""
    assert Figure("x", value, "×", 60, least).held is held


def test_without_a_bar_nothing_is_missed() -> None:
    """A figure that is only shown fails no run."""
    assert run(RATE).held


def test_a_run_holds_when_all_its_figures_do() -> None:
    """One bar that is missed is enough."""
    assert run(RATE, AHEAD).held
    assert not run(RATE, AHEAD, SHORT).held


def test_a_quick_run_is_not_judged() -> None:
    """It shows the bars, but neither fails nor marks what it measured once and with little."""
    quick = run(AHEAD, SHORT, rounds=0)
    assert quick.held
    assert "✗" not in markdown(quick)
    assert "≥ 60" in markdown(quick)


def test_the_table_says_what_is_held() -> None:
    """Each figure is a line with its value, its bar and a mark."""
    lines = markdown(run(RATE, AHEAD, SHORT)).splitlines()
    assert "| backlog of 100 drained by this project, threads 8 | 29,876 interactions/s |  |  |" in lines
    assert "| drained, against another | 99.6 × | ≥ 60 | ✓ |" in lines
    assert "| calls, against what is allowed | 1.2 × | ≤ 1.1 | ✗ |" in lines


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.0123"), (1.046, "1.05"), (20, "20"), (123.4, "123"), (15_000, "15,000")],
)
def test_numbers_have_the_digits_that_say_something(value: float, text: str) -> None:
    """Three digits, thousands apart."""
    assert number(value) == text


def test_a_maximum_reads_as_one() -> None:
    """The sign before the bar says on which side of it is better."""
    assert (bar(AHEAD), bar(SHORT), bar(RATE)) == ("≥ 60", "≤ 1.1", "")


def test_a_run_outlives_its_process() -> None:
    """What is written as JSON is read back as it was."""
    before = run(RATE, AHEAD, SHORT)
    assert Run.read(before.as_json()) == before


def test_the_picture_shows_every_rate_and_bar() -> None:
    """It is well-formed, and has names and values as text, whatever characters they are made of."""
    drawn = ElementTree.fromstring(chart.draw([RATE, OTHER, AHEAD, SHORT]))  # noqa: S314 - our own
    texts = ["".join(element.itertext()) for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {
        "this project, threads 8",
        "29,876",
        "<another>",
        "99.6 × (≥ 60)",
        "1.2 × (≤ 1.1, missed)",
    } <= set(texts)


def test_the_docs_take_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words around the figures stay, and writing twice changes nothing."""
    monkeypatch.setattr(report, "DOCS", tmp_path)
    page = tmp_path / "benchmarks.md"
    page.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    report.write(run(AHEAD))
    once = page.read_text()
    report.write(run(AHEAD))
    assert page.read_text() == once
    assert "| drained, against another | 99.6 × | ≥ 60 | ✓ |" in once
    before, after = (ROOT / "docs" / "benchmarks.md").read_text().split(report.BEGIN)
    assert once.startswith(before)
    assert once.endswith(after.split(report.END)[1])
    assert (tmp_path / "benchmarks.svg").exists()


def test_every_measure_says_what_it_is() -> None:
    """The list is made of the modules' own words; those apart are among them."""
    found = listed()
    assert all(found.values())
    assert set(APART) <= found.keys()


def test_the_list_needs_no_packages() -> None:
    """A bare Python lists the measures at once."""
    said = subprocess.run([ROOT / "scripts" / "bench", "--list"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in said.stdout.splitlines()] == list(listed())
    assert not said.stderr
