"""What is printed where, and what of it never reaches a terminal."""

import doctest
from datetime import UTC, datetime

import msgspec
import pytest

from worker.ops import printing


def test_the_examples_hold() -> None:
    """The examples in the module are true."""
    assert doctest.testmod(printing).failed == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (7, "7"),
        ("a\nb\tc", "a\ufffdb\ufffdc"),
        ("[red]ä", "[red]ä"),
        ("\u202eevil", "\ufffdevil"),
    ],
)
def test_a_value_becomes_harmless_text(value: object, shown: str) -> None:
    """Nothing is taken for markup, nothing steers the terminal, nothing turns the direction of writing."""
    assert printing.plain(value) == shown


def test_times_are_local_for_people_and_iso_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """The same moment, readable by each."""
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert printing.plain(moment) == moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    printing.emit({"at": moment})
    assert msgspec.json.decode(capsys.readouterr().out) == {"at": "2024-01-02T03:04:05Z"}


def test_results_and_remarks_go_different_ways(capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout has results only, line breaks of ours stay."""
    printing.tell("a\nb\x07")
    printing.say("note")
    printing.complain("wrong")
    assert capsys.readouterr() == ("a\nb\ufffd\n", "note\nerror: wrong\n")


def test_a_table_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no markup, and a pipe gets whole lines."""
    wide = "x" * 100
    printing.screen().print(printing.table(["id", "[b]"], [("[bold]1", wide)]))
    head, row = capsys.readouterr().out.splitlines()
    assert "[b]" in head
    assert row.split() == ["[bold]1", wide]
