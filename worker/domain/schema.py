"""The shape of a job: its fields, what each is for, and the JSON Schema that is published of them.

It is the API's own Interaction object (*Create inbound interaction*, *Requests*) with the wire's names, plus
``provider``, ``lane``, ``again``, ``extra`` and, on a release, ``dispatch_requestid``. Unknown fields are
refused by name: a misspelt field must not be lost in silence.

    python -m worker.domain.schema > docs/job.schema.json
"""

import json
import sys
from inspect import cleandoc
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

LIMIT = 100_000
"""Bytes of one encoded Invocation: the documented 100 KB, read as the smaller of its two meanings."""

DEPTH = 32
"""Levels that ``extra`` may be nested: what was recorded has to be readable on any stack."""

BYTES = {"externalid": 1024, "requestid": 256, "route": 256, "provider": 256, "dispatch_requestid": 256}
"""Bytes that a field of the job may have in UTF-8; its schema can count characters only."""

WIRE = frozenset(("action", "requestid", "externalid", "route", "linkeddata", "routingdata"))
"""The job's own members of the Interaction object, which ``extra`` must not have."""

NOT_ON_A_RELEASE: dict[str, list[Any]] = {
    "route": [None],
    "linkeddata": [None, []],
    "routingdata": [None],
    "extra": [None, {}],
    "again": [False],
}
"""What does not belong on a release, and what is as good as leaving it out."""

EXAMPLES: list[dict[str, Any]] = [
    {
        "externalid": "40a4b50f",
        "route": "Route Interaction NR",
        "requestid": "13141f79-79bb-4e4f-a7bc-a96f3a08d1bb",
        "linkeddata": [
            {"type": "clid", "value": "+44123456789"},
            {"type": "url", "label": "Open the case", "value": "https://crm.example/40a4b50f"},
            {"type": "object", "owner": "Crm", "key": "Contact", "value": "500ea8787a87s87s"},
        ],
        "routingdata": {
            "interactiontype": "nonlive",
            "personalqueue": {"agent": "AgentUsername", "loggedintimeout": 20, "loggedouttimeout": 30},
            "skills": [{"name": "expiring", "expiryafter": 60}, {"name": "mandatory"}],
        },
    },
    {
        "action": "release",
        "externalid": "40a4b50f",
        "requestid": "0f0c4d8a-6d0f-4cbe-8f36-1c1b6b2f7f53",
        "dispatch_requestid": "13141f79-79bb-4e4f-a7bc-a96f3a08d1bb",
    },
]

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class LinkedData(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that the agent sees."""

    type: Annotated[Name, Meta(description="`clid`, `url`, `name`, `mediatype` or `object`.")]
    value: str
    label: Annotated[str | UnsetType, Meta(description="On a `url`: its label.")] = UNSET
    owner: Annotated[str | UnsetType, Meta(description="On an `object`: its owner.")] = UNSET
    key: Annotated[str | UnsetType, Meta(description="On an `object`: its key.")] = UNSET


class PersonalQueue(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The agent who is to have the interaction, and for how many seconds it waits for them."""

    agent: Annotated[str, Meta(description="The agent's user name.")]
    loggedintimeout: Annotated[int | UnsetType, Meta(description="Seconds, where they are logged in.")] = (
        UNSET
    )
    loggedouttimeout: Annotated[int | UnsetType, Meta(description="Seconds, where they are not.")] = UNSET


class Skill(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A skill that the agent is to have."""

    name: str
    expiryafter: Annotated[
        int | UnsetType, Meta(description="Seconds until it is optional: 0 at once, left out never.")
    ] = UNSET


class RoutingData(Struct, frozen=True, forbid_unknown_fields=True):
    """How VCC routes the interaction."""

    interactiontype: Annotated[
        Literal["live", "nonlive", "chat"], Meta(description="`live` is a call, `nonlive` an email.")
    ] = "nonlive"
    personalqueue: PersonalQueue | UnsetType = UNSET
    skills: list[Skill] | UnsetType = UNSET


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One dispatch or one release, as a producer asks for it.

    What a schema can't say: no text holds a NUL character, whole numbers are written without a decimal point,
    and a dispatch has at most 100,000 bytes as the body of a call.
    """

    externalid: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            description="The caller's own id of the interaction, 1 to 1,024 bytes in UTF-8.",
        ),
    ]
    action: Annotated[
        Literal["dispatch", "release"],
        Meta(description="Put the interaction into its route, or take it out."),
    ] = "dispatch"
    requestid: Annotated[
        Name | None,
        Meta(description="The API's idempotency key, 1 to 256 bytes; made for the job where it is missing."),
    ] = None
    route: Annotated[
        Name | None,
        Meta(
            description="The named route, 1 to 256 bytes, of those in VCC_ROUTES if set; on a dispatch only."
        ),
    ] = None
    provider: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(
            description="The registered provider, at most 256 bytes, on a dispatch; a release takes its dispatch's."
        ),
    ] = None
    linkeddata: Annotated[
        list[LinkedData] | None, Meta(description="What the agent sees; on a dispatch only.")
    ] = None
    routingdata: Annotated[RoutingData | None, Meta(description="How VCC routes it; on a dispatch only.")] = (
        None
    )
    extra: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Further members of the Interaction object, merged in as they are, nested at most 32 levels"
            " deep; on a dispatch only.",
            extra_json_schema={"propertyNames": {"not": {"enum": sorted(WIRE)}}},
        ),
    ] = None
    lane: Annotated[
        Literal["live", "backlog"], Meta(description="Backlog may wait behind everything live.")
    ] = "live"
    again: Annotated[
        bool,
        Meta(
            description="The customer wrote again: end the dispatched lifecycle and open a new one;"
            " on a dispatch only."
        ),
    ] = False
    dispatch_requestid: Annotated[
        Name | None,
        Meta(description="The dispatch that a release is for, 1 to 256 bytes; on a release only."),
    ] = None

    def request(self) -> dict[str, Any]:
        """What the dispatch carries on the wire besides its ids and its route, as plain JSON values."""
        found: dict[str, Any] = {}
        if self.linkeddata is not None:
            found["linkeddata"] = msgspec.to_builtins(self.linkeddata)
        found["routingdata"] = msgspec.to_builtins(self.routingdata or RoutingData())
        if self.extra:
            found["extra"] = self.extra
        return found


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a job."""
    _, shapes = msgspec.json.schema_components([Job], ref_template="#/$defs/{name}")
    job = shapes.pop("Job")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:vcc-worker:job",
        **job,
        "title": "A job of the VCC worker",
        "description": " ".join(cleandoc(job["description"]).split()),
        "if": {"properties": {"action": {"const": "release"}}, "required": ["action"]},
        "then": {"properties": {name: {"enum": empty} for name, empty in NOT_ON_A_RELEASE.items()}},
        "else": {
            "properties": {"route": {"type": "string"}, "dispatch_requestid": {"type": "null"}},
            "required": ["route"],
        },
        "examples": EXAMPLES,
        "$defs": shapes,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
