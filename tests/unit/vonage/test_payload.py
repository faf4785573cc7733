"""The body of an Invoke call."""

import msgspec
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from worker.vonage import payload

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5)

FULL = {
    "routingdata": {"interactiontype": "nonlive"},
    "extra": {"smsplan": "S", "priority": 1},
    "linkeddata": [{"type": "clid", "value": "+44"}],
}


def test_seed_example() -> None:
    """The guide's own dispatch is encoded as it stands there, without a provider."""
    wire = payload.interaction(
        "dispatch",
        "r-1",
        "sourceObjectName",
        "Route Interaction NR",
        {"routingdata": {"interactiontype": "nonlive"}},
    )

    assert payload.encode("", [wire]) == (
        b'{"requests":[{"action":"dispatch","requestid":"r-1","externalid":"sourceObjectName",'
        b'"route":"Route Interaction NR","routingdata":{"interactiontype":"nonlive"}}]}'
    )


def test_dispatch_order() -> None:
    """A dispatch has its members in the documented order, and those of extra at the end."""
    wire = payload.interaction("dispatch", "r-1", "e-1", "R", FULL)

    assert list(wire) == [
        "action",
        "requestid",
        "externalid",
        "route",
        "linkeddata",
        "routingdata",
        "smsplan",
        "priority",
    ]


def test_release_is_bare() -> None:
    """A release carries its ids and nothing of what its dispatch carried."""
    assert payload.interaction("release", "r-2", "e-1", "R", FULL) == {
        "action": "release",
        "requestid": "r-2",
        "externalid": "e-1",
    }


def test_provider_on_invocation() -> None:
    """A provider stands on the Invocation, before its requests."""
    assert payload.encode("Crm", [{"a": 1}]) == b'{"provider":"Crm","requests":[{"a":1}]}'


@given(provider=st.text(max_size=20), requests=REQUESTS)
def test_sizes_add_up(provider: str, requests: list[dict[str, object]]) -> None:
    """Envelope, sizes and commas are exactly the bytes of the encoded Invocation."""
    commas = max(0, len(requests) - 1)
    total = payload.envelope(provider) + sum(map(payload.size, requests)) + commas

    assert total == len(payload.encode(provider, requests))


@examples(max_examples=40)
@given(requests=REQUESTS)
def test_round_trip(requests: list[dict[str, object]]) -> None:
    """What is encoded reads back as the same requests."""
    assert msgspec.json.decode(payload.encode("P", requests)) == {"provider": "P", "requests": requests}
