"""A job: read, checked, and put on the wire; or refused, in words that name the field.

Its fields stand in ``schema.py``; what a refusal says, in ``refusal.py``.
"""

from math import isfinite
from typing import Any

import msgspec

from worker.domain.refusal import DIGITS, NESTS, TOO_DEEP, cut, unkept, why
from worker.domain.schema import BYTES, DEPTH, LIMIT, NOT_ON_A_RELEASE, WIRE, Job

__all__ = [
    "DEPTH",
    "ENVELOPE",
    "LIMIT",
    "REASON_KEPT",
    "Job",
    "JobError",
    "envelope",
    "interaction",
    "parse",
    "printable",
    "size",
]

ENVELOPE = len(b'{"requests":[]}')
"""Bytes of an Invocation around its requests, where no provider is named."""

REASON_KEPT = 300
"""Characters of a reason that are kept."""


def printable(text: str) -> str:
    """Replace what is not: NUL and surrogates can't be kept, and a terminal obeys control characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


class JobError(Exception):
    """A job can't be recorded; the message names the field, what came and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:REASON_KEPT]))


def parse(
    raw: bytes | dict[str, Any], *, routes: frozenset[str] = frozenset(), requestid: str = "0" * 36
) -> Job:
    """Read a job from JSON, or from the values that JSON came to.

    Args:
        raw: the job's JSON text, or its fields.
        routes: the routes that are allowed; empty: any.
        requestid: it goes by this one where it names none itself; its length counts.

    Raises:
        JobError: it can't be recorded. The message names the field, what came and what is allowed.
    """
    try:
        job = msgspec.json.decode(raw, type=Job) if isinstance(raw, bytes) else msgspec.convert(raw, Job)
        encoded = msgspec.json.encode(job)
        if len(encoded) > DIGITS and not isinstance(raw, bytes):
            # where numbers may be: of a negative one, a digit more can be written than read again
            msgspec.json.decode(msgspec.json.encode((job.routingdata, job.extra)))
        if b"\\u0000" in encoded and (found := unkept(msgspec.to_builtins(job))):
            raise JobError(found)
    except (msgspec.MsgspecError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise JobError(why(raw, error)) from None
    if not encoded.isascii():  # otherwise bytes are characters, and these are counted already
        _check_bytes(job)
    if job.action == "release":
        _check_release(job)
    else:
        _check_dispatch(job, routes, job.requestid or requestid, len(encoded))
    return job


def interaction(
    action: str, requestid: str, externalid: str, route: str | None, request: dict[str, Any]
) -> dict[str, Any]:
    """Build one Interaction object as it goes on the wire (*Requests*).

    A release has ``action``, ``requestid`` and ``externalid`` and nothing else.
    """
    wire: dict[str, Any] = {"action": action, "requestid": requestid, "externalid": externalid}
    if action == "dispatch":
        wire["route"] = route
        wire.update((k, request[k]) for k in ("linkeddata", "routingdata") if k in request)
        wire.update(request.get("extra", {}))
    return wire


def size(wire: dict[str, Any]) -> int:
    """Bytes of one Interaction object, encoded."""
    return len(msgspec.json.encode(wire))


def envelope(provider: str) -> int:
    """Bytes of an Invocation around its requests; commas between them come on top."""
    return ENVELOPE + (len(b'"provider":,') + len(msgspec.json.encode(provider)) if provider else 0)


# --- rules that no type can say ------------------------------------------------------------------


def _check_bytes(job: Job) -> None:
    for name, value in (  # one by one, since every job that is not ASCII comes by: getattr takes its time
        ("externalid", job.externalid),
        ("requestid", job.requestid),
        ("route", job.route),
        ("provider", job.provider),
        ("dispatch_requestid", job.dispatch_requestid),
    ):
        if value and not value.isascii() and len(value.encode()) > BYTES[name]:
            raise JobError(f"{name}: is {len(value.encode()):,} bytes long; allowed are {BYTES[name]:,}")


def _check_release(job: Job) -> None:
    for name in NOT_ON_A_RELEASE:
        if getattr(job, name):
            raise JobError(f"{name}: does not belong on a release; leave it out")


def _check_dispatch(job: Job, routes: frozenset[str], requestid: str, encoded: int) -> None:
    if job.route is None:
        raise JobError("route: is missing; a dispatch needs it")
    if routes and job.route not in routes:
        raise JobError(f"route: is '{cut(job.route)}'; allowed are those in VCC_ROUTES")
    if job.dispatch_requestid is not None:
        raise JobError("dispatch_requestid: does not belong on a dispatch; leave it out")
    if job.extra:
        _check_extra(job.extra)
    if encoded < LIMIT // 2:  # what goes on the wire is a job's own members, and little more
        return
    wire = interaction("dispatch", requestid, job.externalid, job.route, job.request())
    whole = size(wire) + envelope(job.provider or "")
    if whole > LIMIT:
        raise JobError(f"job: is {whole:,} bytes on the wire; allowed are {LIMIT:,}")


def _check_extra(extra: dict[str, Any]) -> None:
    level, finite = [extra], True
    for _ in range(DEPTH):  # level by level, so that no depth is too much to ask
        level, finite = _below(level, finite)
        if not level:
            break
    else:
        raise JobError(f"extra: {TOO_DEEP}")
    if not finite:
        raise JobError(unkept(extra, "extra") or "extra: holds a number that is not finite")
    if taken := sorted(WIRE & extra.keys()):
        raise JobError(f"extra.{taken[0]}: is a field of the job itself; extra is for other members")


def _below(level: list[Any], finite: bool) -> tuple[list[Any], bool]:
    """What is nested in values of one level, and whether all numbers so far are finite."""
    below = []
    for outer in level:
        for value in outer.values() if isinstance(outer, dict) else outer:
            if isinstance(value, NESTS):
                if value:
                    below.append(value)
            elif isinstance(value, float) and not isfinite(value):
                finite = False
    return below, finite
