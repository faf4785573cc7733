"""The header line of a CSV file: which column holds what."""

import csv
from dataclasses import dataclass

from worker.domain.job import printable
from worker.intake.sources.entry import Options, SourceError

COLUMNS = frozenset({
    "action", "clid", "externalid", "interactiontype", "lane", "mediatype", "name", "provider", "requestid",
    "route", "url",
})  # fmt: skip
ALIASES = {"from": "clid", "subject": "name", "message-id": "externalid"}
_NAMES_SHOWN = 300  # characters
_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table.

    Attributes:
        delimiter: what stands between two fields.
        width: how many fields a record has.
        index: the wire name of what a column holds, and which one that is.
        holds_message_ids: whether the ``externalid`` is written as a Message-ID, in angle brackets.
        ignored: the names of the columns that nobody knows, for people.
    """

    delimiter: str
    width: int
    index: dict[str, int]
    holds_message_ids: bool
    ignored: str


def names_columns(line: str) -> bool:
    """Tell whether a line reads like a header line: by the externalid, or by two other known names."""
    known = {ALIASES.get(name, name) for name in _split(line, COLUMNS | ALIASES.keys())[1]} & COLUMNS
    return "externalid" in known or len(known) > 1


def read_header(line: str, options: Options) -> Columns:
    """Read a header line.

    Args:
        line: the first line of the file that is not blank.
        options: what the operator decided: another column for the ``externalid``, a route for all.

    Raises:
        SourceError: it is none, or a column is missing or stands there twice; without the file's name.
    """
    wanted = (options.externalid_from or "").strip().lower()
    used = COLUMNS | ALIASES.keys() | ({wanted} if wanted else set())
    delimiter, names = _split(line, used)
    if not used.intersection(names):
        raise SourceError(
            f"has no header line: its first line names none of the columns {', '.join(sorted(COLUMNS))}; add one"
        )
    index = _index(names, wanted)
    found = f"(found: {_printable(names)})"
    _demand(index, wanted, found, options)
    if any(names.count(name) > 1 for name in used):
        raise SourceError(f"has two columns of the same name {found}; remove or rename one")
    ignored = _printable([name for at, name in enumerate(names) if at not in index.values()])
    return Columns(delimiter, len(names), index, names[index["externalid"]] == "message-id", ignored)


def _split(line: str, used: frozenset[str]) -> tuple[str, list[str]]:
    """Split by the delimiter that yields the most columns of use, or else the most columns."""
    choices = [(mark, _names(line, mark)) for mark in _DELIMITERS]
    return max(choices, key=lambda choice: (len(used.intersection(choice[1])), len(choice[1])))


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except (csv.Error, StopIteration):
        return []


def _index(names: list[str], wanted: str) -> dict[str, int]:
    index = {name: names.index(name) for name in COLUMNS.intersection(names)}
    for alias, name in ALIASES.items():
        if alias in names:
            index.setdefault(name, names.index(alias))
    if wanted:
        index.pop("externalid", None)
        if wanted in names:
            index["externalid"] = names.index(wanted)
    return index


def _demand(index: dict[str, int], wanted: str, found: str, options: Options) -> None:
    if "externalid" not in index:
        remedy = "name another one" if wanted else "rename one, or name it with --externalid-from"
        raise SourceError(f"has no column {wanted or 'externalid'} {found}; {remedy}")
    # A table with actions may be all releases, which need no route.
    if not options.route and not {"route", "action"} & index.keys():
        raise SourceError(f"has no column route {found}; add one, or name a route for all with --route")


def _printable(names: list[str]) -> str:
    text = printable(", ".join(filter(None, names)))
    return text if len(text) <= _NAMES_SHOWN else f"{text[:_NAMES_SHOWN]}…"
