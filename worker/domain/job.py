"""A job: what a producer asks for. The same JSON at every door.

It is the API's own Interaction object (*Create inbound interaction*, *Requests*) with the wire's names, plus
``provider``, ``lane``, ``again``, ``extra`` and, on a release, ``dispatch_requestid``. Unknown fields are
refused by name: a misspelt field must not be lost in silence.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

LIMIT = 100_000
"""Bytes of one encoded Invocation: the documented 100 KB, read as the smaller of its two meanings."""

ENVELOPE = len(b'{"requests":[]}')
"""Bytes of an Invocation around its requests, where no provider is named."""

_NAMES = frozenset(("action", "requestid", "externalid", "route", "linkeddata", "routingdata"))
_DISPATCH_ONLY = ("route", "linkeddata", "routingdata", "extra", "again")

Name = Annotated[str, Meta(min_length=1, max_length=256)]


DEPTH = 32
"""Levels that ``extra`` may be nested: what was recorded has to be readable on any stack."""

REASON_KEPT = 300
"""Characters of a reason that are kept."""


def printable(text: str) -> str:
    """Replace what is not: NUL and surrogates can't be kept, and a terminal obeys control characters."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


class JobError(Exception):
    """A job can't be recorded; the message names the field, what came and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:REASON_KEPT]))


class LinkedData(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that the agent sees: ``clid``, ``url``, ``name``, ``mediatype`` or ``object``."""

    type: Name
    value: str
    label: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    key: str | UnsetType = UNSET


class PersonalQueue(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The agent who is to have the interaction, and for how many seconds it waits for them."""

    agent: str
    loggedintimeout: int | UnsetType = UNSET
    loggedouttimeout: int | UnsetType = UNSET


class Skill(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A skill: optional at once (``expiryafter`` 0), after so many seconds, or never (left out)."""

    name: str
    expiryafter: int | UnsetType = UNSET


class RoutingData(Struct, frozen=True, forbid_unknown_fields=True):
    """How VCC routes the interaction."""

    interactiontype: Literal["live", "nonlive", "chat"] = "nonlive"
    personalqueue: PersonalQueue | UnsetType = UNSET
    skills: list[Skill] | UnsetType = UNSET


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One dispatch or one release, as a producer asks for it.

    Attributes:
        action: ``dispatch`` (the default) or ``release``.
        requestid: the API's idempotency key; made for the job where it is missing.
        externalid: the caller's own id of the interaction, 1 to 1,024 bytes.
        route: the named route; a dispatch needs it.
        provider: the registered provider, on a dispatch; a release takes its dispatch's.
        linkeddata: what the agent sees.
        routingdata: how VCC routes it.
        extra: further members of the Interaction object, merged in as they are.
        lane: ``live``, or ``backlog`` for what may wait behind everything live.
        again: the customer wrote again: end the dispatched lifecycle and open a new one.
        dispatch_requestid: on a release, the dispatch that it is for.
    """

    externalid: Annotated[str, Meta(min_length=1, max_length=1024)]
    action: Literal["dispatch", "release"] = "dispatch"
    requestid: Name | None = None
    route: Name | None = None
    provider: Annotated[str, Meta(max_length=256)] | None = None
    linkeddata: list[LinkedData] | None = None
    routingdata: RoutingData | None = None
    extra: dict[str, Any] | None = None
    lane: Literal["live", "backlog"] = "live"
    again: bool = False
    dispatch_requestid: Name | None = None

    def request(self) -> dict[str, Any]:
        """What the dispatch carries on the wire besides its ids and its route, as plain JSON values."""
        found: dict[str, Any] = {}
        if self.linkeddata is not None:
            found["linkeddata"] = msgspec.to_builtins(self.linkeddata)
        found["routingdata"] = msgspec.to_builtins(self.routingdata or RoutingData())
        if self.extra:
            found["extra"] = self.extra
        return found


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
        if b"\\u0000" in encoded:
            _refuse_nul(msgspec.to_builtins(job), "job")
    except msgspec.ValidationError as error:
        raise JobError(_field_first(str(error))) from None
    except (msgspec.DecodeError, msgspec.MsgspecError) as error:
        raise JobError(f"job: is not valid JSON: {error}") from None
    except UnicodeError:
        raise JobError("job: holds characters that are not valid Unicode (unpaired surrogates)") from None
    except (RecursionError, OverflowError, TypeError, ValueError) as error:
        raise JobError(f"job: can't be written as JSON: {type(error).__name__}") from None
    _check(job, routes, requestid, len(encoded))
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


_BOUNDS = {"externalid": 1024, "requestid": 256, "route": 256, "provider": 256, "dispatch_requestid": 256}


def _check(job: Job, routes: frozenset[str], requestid: str, encoded: int) -> None:
    for name, bound in _BOUNDS.items():
        value = getattr(job, name)
        if value and not value.isascii() and len(value.encode()) > bound:  # characters are counted already
            raise JobError(f"{name}: is {len(value.encode())} bytes long; allowed are {bound}")
    if job.action == "release":
        _check_release(job)
    else:
        _check_dispatch(job, routes, job.requestid or requestid, encoded)


def _check_release(job: Job) -> None:
    for name in _DISPATCH_ONLY:
        if getattr(job, name):
            raise JobError(f"{name}: does not belong on a release, which takes externalid and requestid")


def _check_dispatch(job: Job, routes: frozenset[str], requestid: str, encoded: int) -> None:
    if job.route is None:
        raise JobError("route: is missing; a dispatch needs the named route")
    if routes and job.route not in routes:
        raise JobError(f"route: {job.route!r} is not one of those in VCC_ROUTES")
    if job.dispatch_requestid is not None:
        raise JobError("dispatch_requestid: belongs on a release only")
    if job.extra:
        _check_extra(job.extra)
    if encoded < LIMIT // 2:  # what goes on the wire is a job's own members, and little more
        return
    wire = interaction("dispatch", requestid, job.externalid, job.route, job.request())
    whole = size(wire) + envelope(job.provider or "")
    if whole > LIMIT:
        raise JobError(f"job: is {whole} bytes on the wire; the API takes {LIMIT} in one call")


def _check_extra(extra: dict[str, Any]) -> None:
    if _depth_over(extra, DEPTH):
        raise JobError(f"extra: is nested deeper than {DEPTH} levels")
    if taken := sorted(_NAMES & extra.keys()):
        raise JobError(f"extra.{taken[0]}: is a field of the job itself; extra is for other members")


def _field_first(message: str) -> str:
    """Turn ``Expected `str`, got `int` - at `$.route``` into ``route: expected `str`, got `int```."""
    text, _, path = message.partition(" - at ")
    field = re.sub(r"^(key` in `)?\$\.?", "", path.strip("`")) or "job"
    return f"{field}: {text[:1].lower()}{text[1:]}"


def _refuse_nul(value: Any, place: str) -> None:
    if isinstance(value, str) and "\0" in value:
        raise JobError(f"{place}: holds a NUL character, which the database can't keep")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nul(key, place)
            _refuse_nul(inner, f"{place}.{key}" if place != "job" else key)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_nul(inner, f"{place}[{index}]")


def _depth_over(value: Any, limit: int) -> bool:
    """Whether values are nested deeper than the limit; level by level, so that no depth is too much to ask."""
    level = [value]
    for _ in range(limit + 1):
        inner = [v for v in level if isinstance(v, dict | list) and v]
        if not inner:
            return False
        level = [v for outer in inner for v in (outer.values() if isinstance(outer, dict) else outer)]
    return True
