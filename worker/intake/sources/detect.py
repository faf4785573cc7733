"""What a source is: by its content, and by its name only where the content does not tell."""

import os
import re
from pathlib import Path

from worker.intake.sources.columns import names_columns
from worker.intake.sources.entry import SourceError
from worker.intake.sources.files import PIECE, reading, shown, size
from worker.intake.sources.folders import is_maildir
from worker.intake.sources.mbox import SEPARATOR

# A colon in the first line makes no email: one of these headers has to be among the first ones.
_EMAIL = re.compile(
    rb"(?:[!-9;-~]+[ \t]*:.*\n|[ \t].*\n)*?(?:From|Date|Subject|Message-ID|Received|Return-Path|Delivered-To)[ \t]*:",
    re.IGNORECASE,
)
_SUFFIXES = {
    ".mbox": "mbox",
    ".mbx": "mbox",
    ".eml": "eml",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def detect(path: str | os.PathLike[str]) -> str:
    """Tell the format of a source: ``mbox``, ``maildir``, ``eml``, ``csv`` or ``jsonl``.

    Args:
        path: a file or a folder. Of a file the first line that is not blank decides.

    Raises:
        SourceError: it is missing, unreadable, empty, or none of these; says what was looked for.
    """
    path = Path(path)
    if path.is_dir():
        return "maildir" if is_maildir(path) else "eml"
    size(path)
    with reading(path) as file:
        found = _by_content(file.read(PIECE).lstrip()) or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise SourceError(
            f"{shown(path)}: its format can't be told: no line 'From <address> <date>' (mbox), no email headers,"
            " no JSON object, no known column (CSV) at its beginning; name the format with --format"
        )
    return found


def _by_content(beginning: bytes) -> str | None:
    line = beginning.partition(b"\n")[0].rstrip()
    if SEPARATOR.fullmatch(line):
        return "mbox"
    if line.startswith(b"{"):
        return "jsonl"
    if _EMAIL.match(beginning):
        return "eml"
    return "csv" if names_columns(line.decode("utf-8", "replace")) else None
