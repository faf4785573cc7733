"""What docs/guarantees.md shows is there: each test, each line; its table is that of scripts/breaks.toml."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "breaks.py"
DOCUMENT = (ROOT / "docs" / "guarantees.md").read_text()


@pytest.fixture(scope="module")
def breaks() -> Any:
    """Give the script as a module."""
    spec = importlib.util.spec_from_file_location("breaks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["breaks"] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


def test_lines_and_tests_are_there(breaks: Any) -> None:
    """Each text of the list stands in its file, once, and each of its tests exists."""
    assert breaks.faults(breaks.load()) == []


def test_each_takes_something_out(breaks: Any) -> None:
    """Each has a name of its own, a test, and something else in its line's place."""
    listed = breaks.load()
    assert not [name for name, times in Counter(one.name for one in listed).items() if times > 1]
    assert all(one.tests and one.text != one.instead for one in listed)


def test_table_is_that_of_the_list(breaks: Any) -> None:
    """The table is what ``scripts/breaks --write`` writes."""
    assert breaks.table(breaks.load()) in DOCUMENT
    assert breaks.written(DOCUMENT, breaks.load()) == DOCUMENT


def test_named_tests_exist(breaks: Any) -> None:
    """Every test that the document names by its path is there."""
    named = re.findall(r"`(tests/[^`]+::[^`]+)`", DOCUMENT)
    assert len(named) > 30
    assert [name for name in named if not breaks.is_test(name)] == []


def test_links_lead_somewhere() -> None:
    """Every link leads to a file, and to a heading in it where it names one."""
    for file, heading in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", DOCUMENT):
        path = ROOT / "docs" / (file or "guarantees.md")
        titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, (file, heading)


@pytest.mark.parametrize(
    ("failure", "raises", "verdict"),
    [
        ("assert 1 == 2", "", "red"),
        ("AssertionError: assert 1 == 2", "", "red"),
        ("Failed: DID NOT RAISE <class 'ValueError'>", "", "red"),
        ("NameError: name 'x' is not defined", "", "BROKEN: NameError: name 'x' is not defined"),
        ("sqlalchemy.exc.OperationalError: lock", "OperationalError", "red"),
        ("assert 1 == 2", "OperationalError", "BROKEN: assert 1 == 2"),
        ("", "", "BROKEN: no test failed"),
    ],
)
def test_red_is_what_a_test_says(breaks: Any, failure: str, raises: str, verdict: str) -> None:
    """A test that asserts is red; one that dies of Python's own errors shows nothing but a bad break."""
    one = breaks.Break("n", "p", "k", "f", "t", "i", ["t"], raises)
    assert breaks.verdict(one, 1, failure) == verdict
    assert (breaks.verdict(one, 0, ""), breaks.verdict(one, None, "")) == ("GREEN", "HANGS")


def test_help_and_wrong_names() -> None:
    """It says how it is used; a name that is not in the list is wrong use."""
    shown = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert "Status 1 if any stays green" in shown.stdout
    wrong = subprocess.run([sys.executable, SCRIPT, "no-such"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "no such break: no-such" in wrong.stderr) == (2, True)
