"""Import a backlog: sources in, jobs recorded in chunks, every entry accounted for.

Killed at any line: the chunks recorded so far are on their way, and running the same import again records the
rest; what is there already counts as a duplicate and is dispatched no second time.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from time import monotonic
from typing import IO, Any

from sqlalchemy import Engine

from worker.domain.job import JobError, parse
from worker.domain.meeting import Verdict
from worker.domain.requestid import new_requestid
from worker.intake.record import Incoming, raw, take_in
from worker.intake.sources import Entry, Rejected, Source
from worker.settings import Settings
from worker.store.queries import with_lifecycle
from worker.store.record import Rejection, reject

CHUNK = 1000
"""Entries that are recorded together, in one commit."""

CHUNK_BYTES = 16_000_000
"""So much of a source makes a chunk too, lest the largest jobs fill the memory."""

_YOUNG = 100_000
"""Values that are made before Python looks for garbage among them; a chunk makes as many."""

OLD = frozenset((Verdict.DUPLICATE, Verdict.REPEATED, Verdict.NOTHING))
"""Verdicts that an import counts as duplicates."""


@dataclass(slots=True)
class Tally:
    """What an import has come to so far; ``remarks`` holds a line for each repaired entry."""

    read: int = 0
    new: int = 0
    duplicate: int = 0
    rejected: int = 0
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where an import tells what did not become a new job, and how far it is.

    Attributes:
        rejects: a JSONL file of rejected entries: place, reason, job.
        duplicates: a JSONL file of duplicates: place, externalid.
        progress: called after each chunk.
    """

    rejects: IO[str] | None = None
    duplicates: IO[str] | None = None
    progress: Callable[[Tally], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Importer:
    """What an import works with; ``again`` opens a new lifecycle where one is dispatched."""

    engine: Engine
    settings: Settings
    outlets: Outlets
    wake: Callable[[], None]
    again: bool = False

    def run(self, source: Source, tally: Tally) -> None:
        """Record everything that the source holds, and count it."""
        start = monotonic() - tally.seconds
        with _rarely_collected():
            for chunk in _chunks(source):
                tally.read += len(chunk)
                self._take(chunk, tally)
                tally.seconds = monotonic() - start
                self.outlets.progress(tally)

    def _take(self, chunk: list[Entry | Rejected], tally: Tally) -> None:
        bad = [entry for entry in chunk if isinstance(entry, Rejected)]
        reject(self.engine, "import", [Rejection(b.raw, b.reason, b.place) for b in bad])
        for entry in bad:
            self._refuse(tally, entry.place, entry.reason, entry.raw)
        good = [entry for entry in chunk if isinstance(entry, Entry)]
        batch = [Incoming(self._job(entry), new_requestid(), entry.place) for entry in good]
        taken = take_in(self.engine, self.settings, "import", batch, rules="import", known=False)
        for incoming, (verdict, reason) in zip(batch, taken.details, strict=True):
            self._count(tally, incoming, verdict, reason)
        _note(tally, good)
        if taken.due:
            self.wake()

    def _job(self, entry: Entry) -> dict[str, Any]:
        """What is recorded; a line's own ``again`` counts for nothing, or a second import would repeat it."""
        if entry.job.get("action", "dispatch") == "dispatch":
            return {**entry.job, "again": self.again}
        return entry.job

    def _count(self, tally: Tally, incoming: Incoming, verdict: Verdict, reason: str) -> None:
        if verdict is Verdict.REJECTED:
            self._refuse(tally, incoming.place, reason, raw(incoming.job))
        elif verdict in OLD:
            tally.duplicate += 1
            _line(self.outlets.duplicates, place=incoming.place, externalid=_externalid(incoming))
        else:
            tally.new += 1

    def _refuse(self, tally: Tally, place: str, reason: str, job: bytes) -> None:
        tally.rejected += 1
        _line(self.outlets.rejects, place=place, reason=reason, job=job.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class DryRun:
    """Read and check everything, record nothing; what is new is told by a look at the database."""

    engine: Engine
    settings: Settings
    outlets: Outlets
    again: bool = False
    _seen: set[bytes] = field(default_factory=set)

    def run(self, source: Source, tally: Tally) -> None:
        """Count what an import of the source would come to."""
        start = monotonic() - tally.seconds
        for chunk in _chunks(source):
            tally.read += len(chunk)
            good = [entry for entry in chunk if isinstance(entry, Entry) and self._is_job(entry, tally)]
            for entry in chunk:
                if isinstance(entry, Rejected):
                    tally.rejected += 1
                    _line(self.outlets.rejects, place=entry.place, reason=entry.reason)
            self._compare(good, tally)
            _note(tally, good)
            tally.seconds = monotonic() - start
            self.outlets.progress(tally)

    def _is_job(self, entry: Entry, tally: Tally) -> bool:
        try:
            parse(entry.job, routes=self.settings.routes)
        except JobError as error:
            tally.rejected += 1
            _line(self.outlets.rejects, place=entry.place, reason=str(error))
            return False
        return True

    def _compare(self, entries: list[Entry], tally: Tally) -> None:
        with self.engine.connect() as conn:
            there = with_lifecycle(conn, [entry.job["externalid"] for entry in entries])
        for entry in entries:
            externalid = entry.job["externalid"]
            key = blake2b(externalid.encode(), digest_size=8).digest()
            if entry.job.get("action") == "release":  # what it meets is settled when it is recorded
                tally.new += 1
            elif key in self._seen or (externalid in there and not self.again):
                tally.duplicate += 1
                _line(self.outlets.duplicates, place=entry.place, externalid=externalid)
            else:
                tally.new += 1
                self._seen.add(key)


def _chunks(source: Source) -> Iterator[list[Entry | Rejected]]:
    """Give the source in chunks, the next one read by a thread of its own while this one is recorded."""
    entries = iter(source)
    with ThreadPoolExecutor(1, "reading") as reader:
        coming = reader.submit(_chunk, source, entries)
        while chunk := coming.result():
            coming = reader.submit(_chunk, source, entries)
            yield chunk


def _chunk(source: Source, entries: Iterator[Entry | Rejected]) -> list[Entry | Rejected]:
    chunk, enough = [], source.position + CHUNK_BYTES
    for entry in islice(entries, CHUNK):
        chunk.append(entry)
        if source.position > enough:
            break
    return chunk


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Look for garbage less often: a chunk's values live until it is recorded, and then go by themselves."""
    before = gc.get_threshold()
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _externalid(incoming: Incoming) -> Any:
    return incoming.job.get("externalid") if isinstance(incoming.job, dict) else None


def _note(tally: Tally, entries: Iterable[Entry]) -> None:
    tally.remarks += [f"{entry.place}: {note}" for entry in entries for note in entry.notes]


def _line(outlet: IO[str] | None, **values: Any) -> None:
    if outlet is not None:
        outlet.write(json.dumps(values, ensure_ascii=True) + "\n")
