"""Carry an import out: outlets first, then the sources one after the other, then the wait."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import IO

import typer
from sqlalchemy import Engine

from worker.intake.importer import DryRun, Importer, Outlets, Tally
from worker.intake.sources import Options, Source, SourceError, open_source
from worker.ops.acting import who
from worker.ops.bars import Reading
from worker.ops.failures import CommandError
from worker.ops.printing import complain, emit, say, tell
from worker.ops.reporting import Report
from worker.ops.resources import Bell, opened
from worker.ops.waiting import Left, until_sent
from worker.settings import Settings
from worker.store import queries

NOTES_SHOWN = 10
"""Notes about repaired entries that are shown; the others are counted."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the operator asked for, as ``vcc import`` takes it."""

    sources: list[Path]
    format: str
    options: Options
    rejects: Path | None = None
    duplicates: Path | None = None
    again: bool = False
    dry_run: bool = False
    wait: bool = False


def carry_out(order: Order, *, as_json: bool) -> int:
    """Import, and return the exit status: 1 where a source was unreadable or something waited for failed.

    Raises:
        CommandError: an outlet can't be written.
        sqlalchemy.exc.DBAPIError: the database can't be used.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_outlet(path, order)) for path in (order.rejects, order.duplicates)]
        settings, engine = stack.enter_context(opened())
        _check_route(order, settings)
        before, tally = _newest(engine), Tally()
        whole = _import(order, engine, settings, files, tally)
        if not as_json:
            tell(_summary(tally, dry_run=order.dry_run))
        left = until_sent(engine, before, _newest(engine)) if order.wait else None
    _print(tally, left, as_json=as_json)
    return 0 if whole and (left is None or left.all_well) else 1


def _outlet(path: Path | None, order: Order) -> AbstractContextManager[IO[str] | None]:
    """Open a file to write to; before anything is read, since a late failure would cost what it should hold."""
    if path is None:
        return nullcontext()
    if path in order.sources or any(path.exists() and s.exists() and path.samefile(s) for s in order.sources):
        raise CommandError(f"{path} is one of the sources: name another file to write to")
    if order.rejects == order.duplicates:
        raise CommandError(
            f"{path} can't hold both rejects and duplicates: name another file for one of them"
        )
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"can't write {path}: {error.strerror}; choose another file") from None


def _check_route(order: Order, settings: Settings) -> None:
    route = order.options.route
    if route and settings.routes and route not in settings.routes:
        raise typer.BadParameter(f"{route!r} is not one of those in VCC_ROUTES", param_hint="--route")


def _newest(engine: Engine) -> int:
    with engine.connect() as conn:
        return queries.newest_id(conn)


@dataclass(slots=True)
class _Notes:
    """What had to be repaired: the first are shown as they come, the others counted."""

    seen: int = 0

    def take(self, tally: Tally) -> None:
        """Take the notes out of the tally: of a large backlog they would fill the memory."""
        for note in tally.remarks[: max(NOTES_SHOWN - self.seen, 0)]:
            say(f"note: {note}")
        self.seen += len(tally.remarks)
        tally.remarks.clear()

    def finish(self) -> None:
        """Tell how many were not shown."""
        if self.seen > NOTES_SHOWN:
            say(f"… and {self.seen - NOTES_SHOWN:,} more notes")


class _Sources:
    """The sources on their way in; ``whole`` until one turns out to be unreadable."""

    def __init__(self, order: Order) -> None:
        self.whole = True
        self.opened: list[Source] = []
        for path in order.sources:
            with self._reporting():
                self.opened.append(open_source(path, order.format, order.options))
        for source in self.opened:
            for remark in source.remarks:
                say(f"note: {source.name}: {remark}")

    def share(self) -> float:
        """How much of them has been read, from 0 to 1."""
        total = sum(source.total for source in self.opened)
        return sum(source.position for source in self.opened) / total if total else 0.0

    def take(self, importer: Importer | DryRun, tally: Tally) -> None:
        """Import one after the other, each as far as it can be read."""
        for source in self.opened:
            with self._reporting():
                importer.run(source, tally)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report a source that can't be read; the others are imported all the same."""
        try:
            yield
        except SourceError as error:
            complain(str(error))
            self.whole = False


def _import(
    order: Order, engine: Engine, settings: Settings, files: Sequence[IO[str] | None], tally: Tally
) -> bool:
    """Import everything; whether all sources were readable to their end."""
    sources, notes, bell = _Sources(order), _Notes(), Bell()
    if not order.dry_run:
        Thread(target=_prepare_bell, daemon=True).start()
    with Reading(sources.opened) as bar, _reported(order, engine, sources, tally):

        def show(tally: Tally) -> None:
            notes.take(tally)
            bar.show(tally)

        outlets = Outlets(rejects=files[0], duplicates=files[1], progress=show)
        importer = (
            DryRun(engine, settings, outlets, again=order.again)
            if order.dry_run
            else Importer(engine, settings, outlets, bell, again=order.again)
        )
        sources.take(importer, tally)
    notes.finish()
    bell.tell()
    return sources.whole


@contextmanager
def _reported(order: Order, engine: Engine, sources: _Sources, tally: Tally) -> Iterator[None]:
    """Tell whoever looks how far it is; a dry run changes nothing, and tells nobody."""
    if order.dry_run:
        yield
        return
    with Report(engine, who(), _name(order.sources), order.options.route, tally, sources.share) as report:
        yield
        if not sources.whole:
            report.outcome = "failed"


def _name(sources: Sequence[Path]) -> str:
    """Name what is imported, without the folder that it is in."""
    first = "stdin" if str(sources[0]) in ("-", "/dev/stdin") else sources[0].absolute().name
    return first if len(sources) == 1 else f"{first} and {len(sources) - 1} more"


def _prepare_bell() -> None:
    """Import what the bell rings with, which takes a while, beside the first chunk; what is wrong, it finds itself."""
    with suppress(Exception):
        import worker.tasks  # noqa: F401, PLC0415 - heavy


def _summary(tally: Tally, *, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    return (
        f"{tally.read:,} read in {tally.seconds:.1f} s: {would}{tally.new:,} new, "
        f"{tally.duplicate:,} duplicate, {tally.rejected:,} rejected"
    )


def _print(tally: Tally, left: Left | None, *, as_json: bool) -> None:
    if as_json:
        counts = {name: getattr(tally, name) for name in ("read", "new", "duplicate", "rejected")}
        emit({**counts, "seconds": round(tally.seconds, 3), **({} if left is None else asdict(left))})
    elif left is not None:
        tell(left.sentence)
