"""Take jobs in: read, record, keep what can't be recorded. Every door ends here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from worker.domain.job import Job, JobError, parse
from worker.domain.meeting import Ask, Met, Verdict
from worker.settings import Settings
from worker.store.database import is_about_values, told
from worker.store.record import Rejection, record, reject

DUE = frozenset((Verdict.OPENED, Verdict.RELEASING))
"""Verdicts that leave something to be sent at once."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A job as it came: JSON, or the values that JSON came to.

    Attributes:
        job: the job.
        requestid: it goes by this one where it names none itself.
        place: where it stood, for the rejection's record.
    """

    job: bytes | dict[str, Any]
    requestid: str
    place: str = ""


@dataclass(slots=True)
class Taken:
    """What a batch came to.

    Attributes:
        verdicts: how many jobs came to what.
        details: each job's verdict and, where there is one, the sentence that goes with it.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    details: list[tuple[Verdict, str]] = field(default_factory=list)

    @property
    def due(self) -> bool:
        """Something is to be sent at once."""
        return any(self.verdicts[verdict] for verdict in DUE)


def take_in(
    engine: Engine,
    settings: Settings,
    door: str,
    batch: Sequence[Incoming],
    *,
    rules: str = "job",
    known: bool = True,
) -> Taken:
    """Record a batch of jobs; those that can't be recorded go whole into ``rejections``.

    Args:
        engine: the database.
        settings: the routes that are allowed, the grace period.
        door: which one they came by, for the rejections' record.
        batch: the jobs in their order.
        rules: ``job``, ``import`` or ``force``, see ``Ask``.
        known: the requestids came from outside.

    Raises:
        sqlalchemy.exc.DBAPIError: the database was away for too long; the same batch can be taken in again.
    """
    read = [_read(incoming, settings, rules, known) for incoming in batch]
    asks = [ask for ask in read if isinstance(ask, Ask)]
    met = iter(_record(engine, asks, settings.release_grace))
    taken = Taken()
    rejections = []
    for incoming, ask in zip(batch, read, strict=True):
        verdict, detail = (Verdict.REJECTED, ask) if isinstance(ask, str) else _told(next(met))
        taken.verdicts[verdict] += 1
        taken.details.append((verdict, detail))
        if verdict is Verdict.REJECTED:
            rejections.append(Rejection(raw(incoming.job), detail, incoming.place))
    reject(engine, door, rejections)
    return taken


def _record(engine: Engine, asks: Sequence[Ask], grace: float) -> list[Met]:
    """Record the jobs; should the database refuse one that was let in here, that one alone is rejected."""
    try:
        return record(engine, asks, grace=grace)
    except DBAPIError as error:
        if not is_about_values(error):
            raise
        if len(asks) == 1:
            return [Met(Verdict.REJECTED, None, f"job: the database refuses it ({told(error)})")]
    return [met for ask in asks for met in _record(engine, [ask], grace)]


def _told(met: Met) -> tuple[Verdict, str]:
    return met.verdict, met.detail


def _read(incoming: Incoming, settings: Settings, rules: str, known: bool) -> Ask | str:
    """Read one job; a sentence that says what is wrong with it instead where it can't be."""
    try:
        job: Job = parse(incoming.job, routes=settings.routes, requestid=incoming.requestid)
    except JobError as error:
        return str(error)
    return Ask(job, job.requestid or incoming.requestid, known or job.requestid is not None, rules)


def raw(job: bytes | dict[str, Any]) -> bytes:
    """The job as bytes, however odd its values are."""
    if isinstance(job, bytes):
        return job
    try:
        return msgspec.json.encode(job)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(job)[:1_000_000].encode(errors="backslashreplace")
