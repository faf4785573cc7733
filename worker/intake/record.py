"""Take jobs in: read, record, keep what can't be recorded. Every door ends here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from worker import tracing
from worker.domain.job import Job, JobError, parse
from worker.domain.meeting import DUE, Ask, Met, Verdict
from worker.logs import get_logger
from worker.settings import Settings
from worker.store.backlog import record_backlog
from worker.store.claim import Claim, Terms
from worker.store.database import Where, is_about_values, told
from worker.store.record import CrowdedError, Rejection, record_and_claim, reject

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A job as it came: JSON, or the values that JSON came to.

    Attributes:
        job: the job.
        requestid: it goes by this one where it names none itself.
        place: where it stood, for the rejection's record.
        wrong: why it can't be a job at all.
        trace: its producer's, as ``traceparent`` writes it.
    """

    job: bytes | dict[str, Any]
    requestid: str
    place: str = ""
    wrong: str = ""
    trace: str = ""


@dataclass(slots=True)
class Taken:
    """What a batch came to.

    Attributes:
        verdicts: how many jobs came to what.
        details: each job's verdict and, where there is one, the sentence that goes with it.
        claim: what was claimed of them in the same transaction.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    details: list[tuple[Verdict, str]] = field(default_factory=list)
    claim: Claim | None = None

    @property
    def due(self) -> bool:
        """Something is to be sent at once."""
        return any(self.verdicts[verdict] for verdict in DUE)


def take_in(
    where: Where,
    settings: Settings,
    door: str,
    batch: Sequence[Incoming],
    *,
    rules: str = "job",
    known: bool = True,
    terms: Terms | None = None,
) -> Taken:
    """Record a batch of jobs; those that can't be recorded go whole into ``rejections``.

    Args:
        where: the database.
        settings: the routes that are allowed, the grace period.
        door: which one they came by, for the rejections' record.
        batch: the jobs in their order.
        rules: ``job``, ``import`` or ``force``, see ``Ask``.
        known: the requestids came from outside.
        terms: claim on these, in the transaction that records them, what is to be sent at once.

    Raises:
        sqlalchemy.exc.DBAPIError: the database was away for too long; the same batch can be taken in again.
    """
    read = [_read(incoming, settings, rules, known) for incoming in batch]
    asks = [ask for ask in read if isinstance(ask, Ask)]
    traces = ((i.trace, a.requestid) for i, a in zip(batch, read, strict=True) if isinstance(a, Ask))
    with tracing.recording(door, traces):
        found, claim = _record(where, asks, settings.release_grace, terms)
    met = iter(found)
    taken = Taken(claim=claim)
    rejections = []
    for incoming, ask in zip(batch, read, strict=True):
        verdict, detail = (Verdict.REJECTED, ask) if isinstance(ask, str) else _told(next(met))
        taken.verdicts[verdict] += 1
        taken.details.append((verdict, detail))
        if verdict is Verdict.REJECTED:
            rejections.append(Rejection(raw(incoming.job), detail, incoming.place))
            # not the reason: it may quote the job
            log.debug("job rejected", door=door, place=incoming.place, requestid=incoming.requestid)
    reject(where, door, rejections)
    return taken


def _record(
    where: Where, asks: Sequence[Ask], grace: float, terms: Terms | None
) -> tuple[list[Met], Claim | None]:
    """Record the jobs; should one that was let in here turn out to be impossible, that one alone is rejected."""
    try:
        if asks and asks[0].door == "import":
            return record_backlog(where, asks, grace=grace), None
        return record_and_claim(where, asks, grace, terms)
    except (SQLAlchemyError, psycopg.Error, CrowdedError) as error:
        if not (isinstance(error, DBAPIError) and is_about_values(error)):
            raise
        reason = f"job: the database refuses it ({told(error)})"
    except Exception as error:  # what no rule foresaw must not keep the jobs behind it waiting for ever
        reason = f"job: can't be recorded ({type(error).__name__})"
    if terms is not None:  # perhaps it was not the jobs, but the claim
        log.error("claim failed", reason=reason)
        return _record(where, asks, grace, None)
    if len(asks) == 1:
        log.error("job rejected", reason=reason, **_named(asks[0]))
        return [Met(Verdict.REJECTED, None, reason)], None
    return [met for ask in asks for met in _record(where, [ask], grace, None)[0]], None


def _named(ask: Ask) -> dict[str, str]:
    return {"externalid": ask.job.externalid, "requestid": ask.requestid}


def _told(met: Met) -> tuple[Verdict, str]:
    return met.verdict, met.detail


def _read(incoming: Incoming, settings: Settings, rules: str, known: bool) -> Ask | str:
    """Read one job; a sentence that says what is wrong with it instead where it can't be."""
    if incoming.wrong:
        return incoming.wrong
    try:
        job: Job = parse(incoming.job, routes=settings.routes, requestid=incoming.requestid)
    except JobError as error:
        return str(error)
    except Exception as error:  # what no rule foresaw must not keep the jobs behind it waiting for ever
        reason = f"job: can't be read ({type(error).__name__})"
        log.error("job rejected", reason=reason, place=incoming.place, requestid=incoming.requestid)
        return reason
    return Ask(job, job.requestid or incoming.requestid, known or job.requestid is not None, rules)


def raw(job: bytes | dict[str, Any]) -> bytes:
    """The job as bytes, however odd its values are."""
    if isinstance(job, bytes):
        return job
    try:
        return msgspec.json.encode(job)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(job)[:1_000_000].encode(errors="backslashreplace")
