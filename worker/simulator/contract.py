"""What the reference asks of a call to Invoke, checked by the simulator's own code.

One bad request refuses the whole call. Further members of an Interaction are accepted, since the reference
does not show all of them, but counted; so are members that a release has no use for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

ACCEPT = "application/vnd.newvoicemedia.v1+json"
MAX_BODY = 100_000
"""The largest body in bytes: the documented 100 KB, read strictly."""

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a body that is no JSON, or nested deeper than anybody means."""

_Text = Annotated[str, Meta(min_length=1)]
_OptionalText = str | UnsetType


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not processed.

    Attributes:
        status: the HTTP status of the answer.
        message: one line for people; holds no customer's words.
    """

    status: int
    message: str


class LinkedData(Struct):
    """One thing that the agent sees."""

    type: _Text
    label: _OptionalText = UNSET
    value: _OptionalText = UNSET
    owner: _OptionalText = UNSET
    key: _OptionalText = UNSET


class PersonalQueue(Struct):
    """The agent who is to have the interaction first; timeouts in seconds."""

    agent: _Text
    loggedintimeout: int | UnsetType = UNSET
    loggedouttimeout: int | UnsetType = UNSET


class Skill(Struct):
    """A skill that the agent must have, for so many seconds."""

    name: _Text
    expiryafter: int | UnsetType = UNSET


class RoutingData(Struct):
    """How the interaction is routed."""

    interactiontype: Literal["live", "nonlive", "chat"]
    personalqueue: PersonalQueue | UnsetType = UNSET
    skills: list[Skill] | UnsetType = UNSET


class Dispatch(Struct, kw_only=True):
    """An Interaction to be routed; ``dispatch`` is the action of one that names none."""

    action: Literal["dispatch"] = "dispatch"
    requestid: _Text
    externalid: _Text | UnsetType = UNSET
    route: _Text
    routingdata: RoutingData
    linkeddata: list[LinkedData] | UnsetType = UNSET


class Release(Struct, kw_only=True):
    """An Interaction to be ended."""

    action: Literal["release"]
    requestid: _Text
    externalid: _Text


Interaction = Dispatch | Release


@dataclass(frozen=True, slots=True)
class Invocation:
    """A body that keeps the contract.

    Attributes:
        provider: the registered provider, which stands for every request of the call.
        requests: the dispatches and releases, in the order of the body.
        unknown_members: how many members the reference does not show.
    """

    provider: str | None
    requests: list[Interaction]
    unknown_members: int


class _Envelope(Struct, forbid_unknown_fields=True):
    requests: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    provider: _Text | UnsetType = UNSET


_envelope = msgspec.json.Decoder(_Envelope)
_MEMBERS = {kind: frozenset(kind.__struct_fields__) for kind in (Dispatch, Release)}


def check_headers(headers: Mapping[str, str], *, authorised: bool) -> Refusal | None:
    """Check the three headers of a call.

    Args:
        headers: by lower-case name.
        authorised: whether the bearer token is one that was issued and has not expired.
    """
    if headers.get("accept") != ACCEPT:
        return Refusal(400, f"The accept header must be {ACCEPT}")
    if not authorised:
        return Refusal(401, "The access token is invalid, expired or missing")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return Refusal(400, "The content-type header must be application/json")
    return None


def read(body: bytes) -> Invocation | Refusal:
    """Read a body, or say what is wrong with it."""
    if len(body) > MAX_BODY:
        return Refusal(413, "Payload Too Large")
    try:
        envelope = _envelope.decode(body)
    except msgspec.ValidationError as error:
        return Refusal(400, _reason(error))
    except NOT_JSON:
        return Refusal(400, "The body is not valid JSON")
    return _check_requests(envelope)


def _check_requests(envelope: _Envelope) -> Invocation | Refusal:
    requests: list[Interaction] = []
    unknown = 0
    for place, members in enumerate(envelope.requests):
        kind: type[Interaction] = Release if members.get("action") == "release" else Dispatch
        try:
            requests.append(msgspec.convert(members, kind))
        except msgspec.ValidationError as error:
            return Refusal(400, f"requests[{place}]: {_reason(error)}")
        unknown += len(members.keys() - _MEMBERS[kind])
    return Invocation(envelope.provider or None, requests, unknown)


def _reason(error: msgspec.ValidationError) -> str:
    # msgspec repeats the value that is not in a closed set, and a value may be a customer's word.
    text = str(error)
    return "Invalid value" + text[text.rindex(" - at ") :] if text.startswith("Invalid enum value") else text
