"""Emails in files of their own: a Maildir, a folder of ``.eml`` files, a single one."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from worker.intake.sources.entry import Entry, Options, Rejected, SourceError
from worker.intake.sources.files import BLANK, PIECE, cause, reading, shown, size
from worker.intake.sources.message import End, Message, read_block

Failed = Callable[[OSError], None]


class Emails:
    """The emails of a folder (or one file), in the order of their names."""

    def __init__(self, path: Path, options: Options, paths: Callable[[Failed], Iterator[Path]]) -> None:
        """Count the files.

        Args:
            path: the folder or file.
            options: what the operator decided.
            paths: lists the files afresh, and reports folders that can't be listed to its argument.
        """
        self.name = shown(path)
        self.position = 0
        self.remarks: list[str] = []
        self._options = options
        self._paths = paths
        sizes = [_size(file) for file in paths(lambda _: None)]
        self.total, self.count = sum(sizes), len(sizes)

    def __iter__(self) -> Iterator[Entry | Rejected]:
        """Read file by file; one that can't be read is rejected."""
        self.position = 0
        unlisted: list[OSError] = []
        for path in self._paths(unlisted.append):
            self.position += _size(path)
            yield _read(path, self._options)
        for error in unlisted:
            yield Rejected(shown(error.filename or self.name), f"the folder {cause(error)}", b"")


def one_email(path: Path, options: Options) -> Emails:
    """Return a single ``.eml`` file as a source; raises SourceError where it is missing or empty."""
    size(path)
    with reading(path):
        return Emails(path, options, lambda _: iter([path]))


def eml_folder(path: Path, options: Options) -> Emails:
    """Return the ``.eml`` files of a folder and its subfolders; raises SourceError where there are none."""
    _listable(path)
    source = Emails(path, options, lambda failed: _eml_files(path, failed))
    if not source.count:
        raise SourceError(
            f"{source.name}: is neither a Maildir (cur/ and new/) nor a folder with .eml files; "
            "name the folder that holds the messages, or export them as .eml or mbox"
        )
    return source


def maildir(path: Path, options: Options) -> Emails:
    """Return the messages in ``cur/`` and ``new/``; raises SourceError where there are none."""
    _listable(path)
    if not is_maildir(path):
        raise SourceError(
            f"{shown(path)}: is no Maildir: it has no cur/ and new/; name the folder above them"
        )
    source = Emails(path, options, lambda failed: _maildir_files(path, failed))
    if not source.count:
        raise SourceError(f"{source.name}: is empty: no message in cur/ or new/; check the path")
    subfolders = sum(1 for folder in path.iterdir() if folder.name.startswith(".") and is_maildir(folder))
    if subfolders:
        source.remarks.append(f"{subfolders} subfolder(s) are not read: name each as a source of its own")
    return source


def is_maildir(path: Path) -> bool:
    """Tell whether a folder is a Maildir; archives and copies often leave out its empty folders."""
    has = {name for name in ("cur", "new", "tmp") if (path / name).is_dir()}
    return "cur" in has or has == {"new", "tmp"}


def _listable(path: Path) -> None:
    try:
        with os.scandir(path):
            return
    except (OSError, ValueError) as error:
        reason = cause(error) if isinstance(error, OSError) else "is no path"
        raise SourceError(f"{shown(path)}: {reason}; name a folder that you may read") from None


def _eml_files(root: Path, failed: Failed) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root, onerror=failed):
        subfolders.sort()
        yield from (Path(folder, name) for name in sorted(names) if name.lower().endswith(".eml"))


def _maildir_files(root: Path, failed: Failed) -> Iterator[Path]:
    for folder in (root / "cur", root / "new"):
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        except OSError as error:
            failed(error)
            continue
        # Dot files are the mail server's own.
        yield from (folder / name for name in names if not name.startswith("."))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, options: Options) -> Entry | Rejected:
    place = shown(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO would wait for ever
            return Rejected(place, "is no regular file", b"")
        if not status.st_size:
            return Rejected(place, "is empty", b"")
        return _message(path, options).result(place)
    except OSError as error:
        return Rejected(place, cause(error), b"")
    except SourceError as error:
        return Rejected(place, str(error).removeprefix(f"{place}: "), b"")


def _message(path: Path, options: Options) -> Message:
    with reading(path) as file:
        start = file.tell()
        while (line := file.readline(PIECE)) in BLANK:
            start += len(line)
        file.seek(start)
        block = read_block(file)
        if block.end is End.FILE and block.raw.endswith(b"\n"):  # headers only: a file needs no blank line
            block = replace(block, end=End.BLANK)
        message = Message(block, options)
        while message.digest and (piece := file.readline(PIECE)):
            message.digest.update(piece)
    return message
