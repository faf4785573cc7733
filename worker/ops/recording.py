"""Record an operator's jobs, and say in plain words what each came to."""

from collections.abc import Sequence
from typing import Any

import msgspec
import typer

from worker.domain.job import Job, parse
from worker.domain.meeting import DUE, Ask, Met, Verdict
from worker.domain.requestid import new_requestid
from worker.ops.failures import CommandError
from worker.ops.options import Kind
from worker.ops.resources import Bell, opened
from worker.store.record import record

WORDS = {
    Verdict.OPENED: "recorded; will be sent",
    Verdict.WAITS: "recorded; will be sent when the release before it has settled",
    Verdict.REPEATED: "nothing changes: this requestid has been here before",
    Verdict.RELEASING: "recorded; its release will be sent",
    Verdict.REMEMBERED: "recorded; its release will be sent when its dispatch has settled",
    Verdict.HELD: "nothing is known of it yet; the release is held for its dispatch",
    Verdict.CANCELLED: "cancelled: released before anything was sent",
}
"""What a verdict means, where it has no sentence of its own."""


def decoded(option: str, text: str | None) -> Any:
    """Read an option's JSON; raises typer.BadParameter for anything else."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"is no JSON: {error}", param_hint=option) from None


def with_kind(routingdata: Any, kind: Kind | None) -> Any:
    """Put the interactiontype into the routing data; what is no object is left to be refused."""
    if kind is None or not isinstance(routingdata, dict | None):
        return routingdata
    return {**(routingdata or {}), "interactiontype": kind.value}


def record_jobs(jobs: Sequence[dict[str, Any]], *, rules: str = "job") -> list[dict[str, Any]]:
    """Record jobs and wake the workers; what can't be recorded is told here instead of kept in ``rejections``.

    Returns:
        Of each job its ``externalid``, ``requestid``, ``verdict`` and ``detail``.

    Raises:
        JobError: a job is wrong; nothing is recorded.
        CommandError: a requestid belongs to another job; the others are recorded.
    """
    with opened() as (settings, engine):
        asks = [_ask(parse(job, routes=settings.routes), rules) for job in jobs]
        met = record(engine, asks, grace=settings.release_grace)
    if any(m.verdict in DUE for m in met):
        bell = Bell()
        bell()
        bell.tell()
    for m in met:
        if m.verdict is Verdict.REJECTED:
            raise CommandError(m.detail)
    return [_told(ask, m) for ask, m in zip(asks, met, strict=True)]


def _ask(job: Job, rules: str) -> Ask:
    return Ask(job, job.requestid or new_requestid(), job.requestid is not None, rules)


def _told(ask: Ask, met: Met) -> dict[str, Any]:
    return {
        "externalid": ask.job.externalid,
        "requestid": ask.requestid,
        "verdict": met.verdict.value,
        "detail": met.detail or WORDS[met.verdict],
    }
