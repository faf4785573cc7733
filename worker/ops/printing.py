"""What the commands print: results on stdout, everything else on stderr.

Texts that came from outside (ids, the API's words) may hold anything, so nothing in them is taken for markup or
reaches the terminal as a control character.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

WIDE = 200
"""Columns of a table that goes into a file or a pipe."""


def emit(value: Any) -> None:
    """Print one value as one line of JSON on stdout; times as in ISO 8601."""
    typer.echo(msgspec.json.encode(value))


def tell(text: str) -> None:
    """Print a result for people on stdout."""
    typer.echo(_lines(text))


def say(text: str) -> None:
    """Print on stderr what is no result: a note, a warning, how far it is."""
    typer.echo(_lines(text), err=True)


def complain(text: str) -> None:
    """Print an error on stderr."""
    say(f"error: {text}")


def _lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def screen(*, stderr: bool = False) -> Console:
    """Give the console for tables and bars."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """Make a table of plain texts."""
    made = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        made.add_row(*(plain(cell) for cell in row))
    return made


def plain(value: Any) -> str:
    r"""Write a value as text that is safe to show; None as nothing.

    >>> plain("a\x1b[31mb")
    'a�[31mb'
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))
