"""Where jobs are imported from: mailboxes, folders of emails, tables, lines of JSON.

Files become entries (a job each) or rejected entries, one after the other; nothing is ever loaded as a whole,
and nothing is written.
"""

import os
from collections.abc import Callable
from pathlib import Path

from worker.intake.sources.detect import detect
from worker.intake.sources.entry import Entry, Options, Rejected, Source, SourceError
from worker.intake.sources.files import shown
from worker.intake.sources.folders import eml_folder, maildir, one_email
from worker.intake.sources.jsonl import JsonLines
from worker.intake.sources.mbox import Mbox
from worker.intake.sources.table import Table

__all__ = ["FORMATS", "Entry", "Options", "Rejected", "Source", "SourceError", "detect", "open_source"]


def _eml(path: Path, options: Options) -> Source:
    return eml_folder(path, options) if path.is_dir() else one_email(path, options)


_OPENERS: dict[str, Callable[[Path, Options], Source]] = {
    "mbox": Mbox,
    "maildir": maildir,
    "eml": _eml,
    "csv": Table,
    "jsonl": JsonLines,
}
_OF_EMAILS = {"mbox", "maildir", "eml"}

FORMATS = ("auto", *_OPENERS)
"""What ``open_source`` takes for a format."""


def open_source(
    path: str | os.PathLike[str],
    format: str = "auto",  # noqa: A002 - the name of the command's option
    options: Options = Options(),  # noqa: B008 - frozen
) -> Source:
    """Open a file or folder to import from.

    Args:
        path: where it is.
        format: one of FORMATS; ``auto`` looks at the content, then at the name.
        options: what the operator decided for all its entries.

    Returns:
        The source: iterate over it.

    Raises:
        SourceError: it can't be imported as a whole; says why and what to do.
    """
    path = Path(path)
    if format not in FORMATS:
        raise SourceError(f"{shown(path)}: unknown format {format}; choose one of {', '.join(FORMATS)}")
    if format == "auto":
        format = detect(path)  # noqa: A001
    if format in _OF_EMAILS and not options.route:
        raise SourceError(f"{shown(path)}: emails name no route; name one for all with --route")
    return _OPENERS[format](path, options)
