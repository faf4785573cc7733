"""Reading a job: what is let in, and what is refused in which words."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.job import LIMIT, Job, JobError, envelope, interaction, parse, size

DISPATCH = {"externalid": "e", "route": "R"}
RELEASE = {"externalid": "e", "action": "release"}
NESTED = b'{"externalid":"e","route":"R","extra":{"x":%s}}'

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
)  # characters() has the surrogates that text() leaves out
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Job.__struct_fields__, "nonsense"])


def refusal(raw: Any, **options: Any) -> str:
    """Read a job that can't be recorded; the reason."""
    with pytest.raises(JobError) as caught:
        parse(raw, **options)
    return str(caught.value)


def read_or_refused(raw: Any) -> bool:
    """Tell whether a job is read, or refused in words that can be kept."""
    try:
        return isinstance(parse(raw), Job)
    except JobError as error:
        return str(error).isprintable()


def of_size(whole: int, **fields: Any) -> dict[str, Any]:
    """Make a dispatch whose Invocation has exactly so many bytes."""
    job = {**DISPATCH, "requestid": "r" * 36, "linkeddata": [{"type": "name", "value": ""}], **fields}
    read = parse(job)
    wire = interaction("dispatch", "r" * 36, "e", "R", read.request())
    missing = whole - size(wire) - envelope(read.provider or "")
    return {**job, "linkeddata": [{"type": "name", "value": "x" * missing}]}


def test_least_dispatch() -> None:
    """An externalid and a route are enough; the rest has the values that the guide's example has."""
    job = parse(json.dumps(DISPATCH).encode())
    assert (job.action, job.lane, job.again, job.requestid) == ("dispatch", "live", False, None)
    assert job.request() == {"routingdata": {"interactiontype": "nonlive"}}


def test_text_and_values_come_to_the_same() -> None:
    """A job is the same whether it comes as JSON or as what JSON came to."""
    full = {
        **DISPATCH,
        "requestid": "r",
        "provider": "P",
        "lane": "backlog",
        "again": True,
        "extra": {"smsplan": "S"},
        "linkeddata": [{"type": "url", "label": "Open", "value": "https://crm.example/1"}],
        "routingdata": {
            "interactiontype": "chat",
            "personalqueue": {"agent": "a", "loggedintimeout": 1},
            "skills": [{"name": "s", "expiryafter": 0}, {"name": "m"}],
        },
    }
    job = parse(full)
    assert job == parse(json.dumps(full).encode())
    assert job.request() == {name: full[name] for name in ("linkeddata", "routingdata", "extra")}


def test_absent_members_stay_absent() -> None:
    """What a producer left out is not sent, be it inside of a list."""
    job = parse({**DISPATCH, "linkeddata": [{"type": "clid", "value": "1"}], "routingdata": {"skills": []}})
    assert job.request() == {
        "linkeddata": [{"type": "clid", "value": "1"}],
        "routingdata": {"interactiontype": "nonlive", "skills": []},
    }


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({"route": "R"}, "job: object missing required field `externalid`"),
        ({"externalid": "e"}, "route: is missing; a dispatch needs the named route"),
        ({**DISPATCH, "externalid": ""}, "externalid: expected `str` of length >= 1"),
        ({**DISPATCH, "externalid": 7}, "externalid: expected `str`, got `int`"),
        ({**DISPATCH, "externalid": None}, "externalid: expected `str`, got `null`"),
        ({**DISPATCH, "externalid": "é" * 513}, "externalid: is 1026 bytes long; allowed are 1024"),
        ({**DISPATCH, "externalid": "e" * 1025}, "externalid: expected `str` of length <= 1024"),
        ({**DISPATCH, "requestid": ""}, "requestid: expected `str` of length >= 1"),
        ({**DISPATCH, "requestid": "é" * 129}, "requestid: is 258 bytes long; allowed are 256"),
        ({**DISPATCH, "route": "é" * 129}, "route: is 258 bytes long; allowed are 256"),
        ({**DISPATCH, "provider": "é" * 129}, "provider: is 258 bytes long; allowed are 256"),
        (
            {**RELEASE, "dispatch_requestid": "é" * 129},
            "dispatch_requestid: is 258 bytes long; allowed are 256",
        ),
        ({**DISPATCH, "route": 7}, "route: expected `str | null`, got `int`"),
        ({**DISPATCH, "provider": []}, "provider: expected `str | null`, got `array`"),
        ({**DISPATCH, "action": "drop"}, "action: invalid enum value 'drop'"),
        ({**DISPATCH, "lane": "fast"}, "lane: invalid enum value 'fast'"),
        ({**DISPATCH, "again": 1}, "again: expected `bool`, got `int`"),
        ({**DISPATCH, "linkeddata": {}}, "linkeddata: expected `array | null`, got `object`"),
        ({**DISPATCH, "linkeddata": [7]}, "linkeddata[0]: expected `object`, got `int`"),
        (
            {**DISPATCH, "linkeddata": [{"type": "", "value": ""}]},
            "linkeddata[0].type: expected `str` of length >= 1",
        ),
        (
            {**DISPATCH, "linkeddata": [{"type": "url"}]},
            "linkeddata[0]: object missing required field `value`",
        ),
        ({**DISPATCH, "routingdata": 7}, "routingdata: expected `object | null`, got `int`"),
        (
            {**DISPATCH, "routingdata": {"interactiontype": "fax"}},
            "routingdata.interactiontype: invalid enum value 'fax'",
        ),
        (
            {**DISPATCH, "routingdata": {"personalqueue": {}}},
            "routingdata.personalqueue: object missing required field `agent`",
        ),
        (
            {**DISPATCH, "routingdata": {"skills": [{"name": "s", "expiryafter": "1"}]}},
            "routingdata.skills[0].expiryafter: expected `int`, got `str`",
        ),
        ({**DISPATCH, "extra": []}, "extra: expected `object | null`, got `array`"),
        (
            {**DISPATCH, "extra": {"route": "X"}},
            "extra.route: is a field of the job itself; extra is for other members",
        ),
        ({**DISPATCH, "dispatch_requestid": "d"}, "dispatch_requestid: belongs on a release only"),
        ({**DISPATCH, "Route": "R"}, "job: object contains unknown field `Route`"),
        ({**DISPATCH, "routingdata": {"skill": []}}, "routingdata: object contains unknown field `skill`"),
        (
            {**RELEASE, "route": "R"},
            "route: does not belong on a release, which takes externalid and requestid",
        ),
        (
            {**RELEASE, "again": True},
            "again: does not belong on a release, which takes externalid and requestid",
        ),
        (None, "job: expected `object`, got `null`"),
        ("text", "job: expected `object`, got `str`"),
        ([], "job: expected `object`, got `array`"),
        (b"", "job: is not valid JSON: Input data was truncated"),
        (b'{"externalid":', "job: is not valid JSON: Input data was truncated"),
        (b"\xff\xfe", "job: is not valid JSON: JSON is malformed: invalid character (byte 0)"),
        (
            {**DISPATCH, "externalid": "a\0b"},
            "externalid: holds a NUL character, which the database can't keep",
        ),
        (
            {**DISPATCH, "linkeddata": [{"type": "clid", "value": "\0"}]},
            "linkeddata[0].value: holds a NUL character, which the database can't keep",
        ),
        (
            {**DISPATCH, "extra": {"a": {"\0": 1}}},
            "extra.a: holds a NUL character, which the database can't keep",
        ),
        (
            {**DISPATCH, "externalid": "\ud800"},
            "job: holds characters that are not valid Unicode (unpaired surrogates)",
        ),
        (
            {**DISPATCH, "extra": {"a": "\udfff"}},
            "job: holds characters that are not valid Unicode (unpaired surrogates)",
        ),
        (NESTED % (b"[" * 50_000 + b"]" * 50_000), "job: can't be written as JSON: RecursionError"),
        ({**DISPATCH, "extra": {"x": 10**5000}}, "job: can't be written as JSON: ValueError"),
        ({**DISPATCH, "extra": {"x": object()}}, "job: can't be written as JSON: TypeError"),
    ],
)
def test_refusal_names_the_field(job: Any, reason: str) -> None:
    """Each thing that can be wrong is told by field, what came, and what is allowed."""
    assert refusal(job) == reason


def test_lone_surrogate_in_json_text() -> None:
    """An escaped lone surrogate is refused as the JSON text is read."""
    assert refusal(NESTED % rb'"\ud800"').startswith("job: is not valid JSON")


def test_route_must_be_one_of_those_set() -> None:
    """Where routes are set, another one is refused by name."""
    allowed = frozenset(("R", "S"))
    assert parse(DISPATCH, routes=allowed).route == "R"
    assert (
        refusal({**DISPATCH, "route": "T"}, routes=allowed) == "route: 'T' is not one of those in VCC_ROUTES"
    )


def test_route_list_is_not_for_releases() -> None:
    """A release names no route and needs none."""
    assert parse(RELEASE, routes=frozenset("R")).action == "release"


@pytest.mark.parametrize("externalid", ["e", "e" * 1024, "é" * 512])
def test_externalid_up_to_its_bound(externalid: str) -> None:
    """An externalid has 1 to 1,024 bytes."""
    assert parse({**DISPATCH, "externalid": externalid}).externalid == externalid


def test_escaped_backslash_is_no_nul() -> None:
    r"""The six characters ``\u0000`` in a text are not the character NUL."""
    value = "\\u0000"
    job = parse({**DISPATCH, "linkeddata": [{"type": "name", "value": value}]})
    assert job.linkeddata is not None
    assert job.linkeddata[0].value == value


@pytest.mark.parametrize("fields", [{}, {"provider": "Prövider"}, {"extra": {"smsplan": "S"}}])
def test_largest_job(fields: dict[str, Any]) -> None:
    """An Invocation of exactly 100,000 bytes is let in, one byte more is refused at the door."""
    assert parse(of_size(LIMIT, **fields))
    assert (
        refusal(of_size(LIMIT + 1, **fields))
        == "job: is 100001 bytes on the wire; the API takes 100000 in one call"
    )


def test_largest_job_without_a_requestid_of_its_own() -> None:
    """The requestid that a job is going to have counts for its size where it names none."""
    job = of_size(LIMIT)
    del job["requestid"]
    assert parse(job, requestid="m" * 36)
    assert "100001 bytes" in refusal(job, requestid="m" * 37)


def test_five_megabytes() -> None:
    """A job of 5 MB is refused for its size, its field names and wrong values are told cut short."""
    assert "bytes on the wire" in refusal({**DISPATCH, "extra": {"x": "y" * 5_000_000}})
    assert len(refusal({**DISPATCH, "x" * 5_000_000: 1})) < 500
    assert len(refusal({**DISPATCH, "lane": "x" * 5_000_000})) < 500
    assert len(refusal({**DISPATCH, "extra": {"x" * 5_000_000: {"a": "\0"}}})) < 500


def test_reason_can_be_kept() -> None:
    """A reason is printable whatever a producer calls its fields: the database can't keep a NUL."""
    reasons = [refusal({**DISPATCH, name: 1}) for name in ("a\0b", "a\nb", "\x1b[2J")]
    assert all(map(str.isprintable, reasons))


def test_release_on_the_wire() -> None:
    """A release has its ids and nothing else."""
    assert interaction("release", "r", "e", None, {}) == {
        "action": "release",
        "requestid": "r",
        "externalid": "e",
    }


@given(st.dictionaries(FIELDS, JSON, max_size=8) | JSON)
def test_no_job_breaks_the_door(raw: Any) -> None:
    """Whatever the values are, a job is read or refused."""
    assert read_or_refused(raw)


@given(
    st.binary(max_size=60) | st.dictionaries(FIELDS, JSON, max_size=8).map(lambda j: json.dumps(j).encode())
)
def test_no_text_breaks_the_door(raw: bytes) -> None:
    """Whatever the bytes are, a job is read or refused."""
    assert read_or_refused(raw)


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), st.text(min_size=1, max_size=30)
)
def test_size_is_what_goes_over_the_wire(extra: dict[str, str], externalid: str) -> None:
    """What is let in is as large on the wire as it was measured."""
    try:
        job = parse({**DISPATCH, "externalid": externalid, "extra": extra})
    except JobError:
        return
    wire = interaction("dispatch", "r", job.externalid, job.route, job.request())
    assert len(msgspec.json.encode({"requests": [wire]})) == size(wire) + envelope("")


@pytest.mark.parametrize(("depth", "taken"), [(32, True), (33, False), (900, False)])
def test_depth_of_extra_is_bounded(depth: int, taken: bool) -> None:
    """What is nested deeper than any stack can be sure to read is refused."""
    extra: Any = {"x": 1}
    for _ in range(depth - 1):
        extra = {"x": extra}
    job = {"externalid": "e", "route": "R", "extra": extra}
    if taken:
        assert parse(job).extra == extra
    else:
        with pytest.raises(JobError, match=r"^extra: is nested deeper"):
            parse(job)
