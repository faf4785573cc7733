"""Reading a job: what is let in, and what is refused in which words."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.job import LIMIT, REASON_KEPT, JobError, envelope, interaction, parse, size

DISPATCH = {"externalid": "e", "route": "R"}
RELEASE = {"externalid": "e", "action": "release"}
ANY_FIELD = (
    "{}: is no field of a job; allowed are externalid, action, requestid, route, provider, linkeddata,"
    " routingdata, extra, lane, again, dispatch_requestid"
)
NESTED = b'{"externalid":"e","route":"R","extra":{"x":%s}}'


def refusal(raw: Any, **options: Any) -> str:
    """Read a job that can't be recorded; the reason."""
    with pytest.raises(JobError) as caught:
        parse(raw, **options)
    return str(caught.value)


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
        ({"route": "R"}, "externalid: is missing; a job needs it"),
        ({"externalid": "e"}, "route: is missing; a dispatch needs it"),
        ({**DISPATCH, "externalid": ""}, "externalid: is empty; allowed are 1 to 1,024 bytes"),
        ({**DISPATCH, "externalid": 7}, "externalid: is a number; it must be a string"),
        ({**DISPATCH, "externalid": None}, "externalid: is null; it must be a string"),
        ({**DISPATCH, "externalid": "é" * 513}, "externalid: is 1,026 bytes long; allowed are 1,024"),
        ({**DISPATCH, "externalid": "e" * 1025}, "externalid: is 1,025 characters long; allowed are 1,024"),
        ({**DISPATCH, "requestid": ""}, "requestid: is empty; allowed are 1 to 256 bytes"),
        ({**DISPATCH, "requestid": "r" * 300}, "requestid: is 300 characters long; allowed are 256"),
        ({**DISPATCH, "requestid": "é" * 129}, "requestid: is 258 bytes long; allowed are 256"),
        ({**DISPATCH, "route": "é" * 129}, "route: is 258 bytes long; allowed are 256"),
        ({**DISPATCH, "provider": "é" * 129}, "provider: is 258 bytes long; allowed are 256"),
        (
            {**RELEASE, "dispatch_requestid": "é" * 129},
            "dispatch_requestid: is 258 bytes long; allowed are 256",
        ),
        ({**DISPATCH, "route": 7}, "route: is a number; it must be a string"),
        ({**DISPATCH, "provider": []}, "provider: is a list; it must be a string"),
        (
            {"requestid": None, **DISPATCH, "action": "drop"},
            "action: is 'drop'; allowed are dispatch, release",
        ),
        ({**DISPATCH, "lane": "fast"}, "lane: is 'fast'; allowed are live, backlog"),
        (
            {**DISPATCH, "linkeddata": [{"type": "clid", "value": ""}], "lane": "fast"},
            "lane: is 'fast'; allowed are live, backlog",
        ),
        ({**DISPATCH, "lane": 1.5}, "lane: is a decimal number; allowed are live, backlog"),
        ({**DISPATCH, "lane": "x" * 40}, f"lane: is '{'x' * 40}'; allowed are live, backlog"),
        ({**DISPATCH, "lane": "x" * 41}, f"lane: is '{'x' * 39}…'; allowed are live, backlog"),
        ({**DISPATCH, "again": 1}, "again: is a number; it must be true or false"),
        ({**DISPATCH, "linkeddata": {}}, "linkeddata: is an object; it must be a list"),
        ({**DISPATCH, "linkeddata": [7]}, "linkeddata[0]: is a number; it must be an object"),
        (
            {**DISPATCH, "linkeddata": [{"type": "", "value": ""}]},
            "linkeddata[0].type: is empty; allowed are 1 to 256 characters",
        ),
        (
            {**DISPATCH, "linkeddata": [{"type": "url"}]},
            "linkeddata[0].value: is missing; linkeddata[0] needs it",
        ),
        ({**DISPATCH, "routingdata": 7}, "routingdata: is a number; it must be an object"),
        (
            {**DISPATCH, "routingdata": {"interactiontype": "fax"}},
            "routingdata.interactiontype: is 'fax'; allowed are nonlive, chat, live",
        ),
        (
            {**DISPATCH, "routingdata": {"personalqueue": {}}},
            "routingdata.personalqueue.agent: is missing; routingdata.personalqueue needs it",
        ),
        (
            {**DISPATCH, "routingdata": {"skills": [{"name": "s", "expiryafter": "1"}]}},
            "routingdata.skills[0].expiryafter: is a string; it must be a whole number",
        ),
        (
            {**DISPATCH, "routingdata": {"skills": [{"name": "s"}, {"name": "s", "expiryafter": 1.0}]}},
            "routingdata.skills[1].expiryafter: is a decimal number; it must be a whole number",
        ),
        (
            {**DISPATCH, "routingdata": {"personalqueue": {"agent": "a", "loggedintimeout": True}}},
            "routingdata.personalqueue.loggedintimeout: is a boolean; it must be a whole number",
        ),
        ({**DISPATCH, "extra": []}, "extra: is a list; it must be an object"),
        ({**DISPATCH, "extra": {7: 7}}, "extra: has a number for a name; names must be strings"),
        ({**DISPATCH, "extra": {"a": 7, 7: 7}}, "extra: has a number for a name; names must be strings"),
        (
            {**DISPATCH, "extra": {"route": "X"}},
            "extra.route: is a field of the job itself; extra is for other members",
        ),
        (
            {**DISPATCH, "dispatch_requestid": "d"},
            "dispatch_requestid: does not belong on a dispatch; leave it out",
        ),
        ({**DISPATCH, "linkedata": []}, "linkedata: is no field of a job; did you mean linkeddata?"),
        ({**DISPATCH, "RequestID": "r"}, "RequestID: is no field of a job; did you mean requestid?"),
        ({**DISPATCH, "LANE": "live"}, "LANE: is no field of a job; did you mean lane?"),
        ({**DISPATCH, "": 1, "lane": 7}, ANY_FIELD.format("''")),
        ({**DISPATCH, "subject": "S"}, ANY_FIELD.format("subject")),
        (
            {**DISPATCH, "routingdata": {"skill": []}},
            "routingdata.skill: is no field of routingdata; did you mean skills?",
        ),
        ({7: 7}, "job: has a number for a name; names must be strings"),
        (
            {**RELEASE, "route": "R"},
            "route: does not belong on a release; leave it out",
        ),
        (
            {**RELEASE, "again": True},
            "again: does not belong on a release; leave it out",
        ),
        (None, "job: is null; it must be an object"),
        ("text", "job: is a string; it must be an object"),
        ([], "job: is a list; it must be an object"),
        (b"", "job: is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"externalid":', "job: is not valid JSON: Expecting value: line 1 column 15 (char 14)"),
        (b"\xff\xfe", "job: is not valid UTF-8: invalid start byte at byte 0; it must be JSON text"),
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
            "externalid: holds half a character (an unpaired surrogate), which is not valid Unicode",
        ),
        (
            {**DISPATCH, "extra": {"a": [0, "\udfff"]}},
            "extra.a[1]: holds half a character (an unpaired surrogate), which is not valid Unicode",
        ),
        (NESTED % (b"[" * 50_000 + b"]" * 50_000), "extra: is nested too deep; allowed are 32 levels"),
        (
            {**DISPATCH, "extra": {"x": 10**5000}},
            "extra.x: is a number of too many digits; allowed are 4,300",
        ),
        (
            {**DISPATCH, "routingdata": {"skills": [{"name": "s", "expiryafter": -(10**4299)}]}},
            "routingdata.skills[0].expiryafter: is a number of too many digits; allowed are 4,300",
        ),
        (NESTED % (b"1" * 5000), "extra.x: is a number of too many digits; allowed are 4,300"),
        ({**DISPATCH, "extra": {"x": object()}}, "extra.x: is a Python object, which JSON does not have"),
    ],
)
def test_refusal_names_the_field(job: Any, reason: str) -> None:
    """Each thing that can be wrong is told by field, what came, and what is allowed."""
    assert refusal(job) == reason


def test_lone_surrogate_in_json_text() -> None:
    """An escaped lone surrogate is refused where it stands, as it is among values."""
    assert refusal(NESTED % rb'"\ud800"').startswith("extra.x: holds half a character")


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_number_that_json_does_not_have(number: bytes) -> None:
    """A number that is not finite is refused, in text as in values: it would go out as null."""
    told = "extra.x[0]: is not a finite number; JSON takes no other"
    assert refusal(NESTED % (b"[%s]" % number)) == told
    assert refusal({**DISPATCH, "extra": {"x": [float(number)]}}) == told


@pytest.mark.parametrize("digits", [1, 4300])
def test_number_that_can_be_kept_is_not_to_blame(digits: int) -> None:
    """Beside a whole number of as many digits as are allowed another fault is told."""
    text = rb'{"externalid":"e","route":"R","extra":{"n":%s,"x":"\ud800"}}' % (b"9" * digits)
    assert refusal(text).startswith("extra.x: holds half a character")


def test_members_of_one_name() -> None:
    """Of two members of one name the wrong one is told, though the other would count."""
    assert refusal(b'{"lane":"x","lane":"live"}') == "lane: is 'x'; allowed are live, backlog"


def test_first_fault_is_told_though_the_rest_is_no_json() -> None:
    """Text that is cut off is told as such, whatever else was wrong before."""
    assert refusal(b'{"route":7,').startswith("job: is not valid JSON")


def test_reason_keeps_its_end() -> None:
    """Long names are cut, so that there is room for what is wrong, and for the name of a client's call."""
    deep: Any = "\0"
    for name in "abcdef":
        deep = {name * 90: deep}
    told = refusal({**DISPATCH, "extra": deep})
    assert told.endswith("…: holds a NUL character, which the database can't keep")
    assert len(told) < REASON_KEPT - 100


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [
        ((38, 37, 37), (38, 37, 37)),
        ((38, 37, 38), (38, 37)),
        ((30, 30, 30, 30, 30), (30, 30, 30)),
    ],
)
def test_place_is_cut(lengths: tuple[int, ...], shown: tuple[int, ...]) -> None:
    """Of a place 120 characters are told; where it goes on, it says so once."""
    deep: Any = "\0"
    for length in reversed(lengths):
        deep = {"n" * length: deep}
    place = ".".join(["extra", *("n" * length for length in shown)]) + ("…" if shown != lengths else "")
    assert refusal({**DISPATCH, "extra": deep}).startswith(f"{place}: holds a NUL")


def test_route_must_be_one_of_those_set() -> None:
    """Where routes are set, another one is refused by name."""
    allowed = frozenset(("R", "S"))
    assert parse(DISPATCH, routes=allowed).route == "R"
    assert (
        refusal({**DISPATCH, "route": "T"}, routes=allowed)
        == "route: is 'T'; allowed are those in VCC_ROUTES"
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
    assert refusal(of_size(LIMIT + 1, **fields)) == "job: is 100,001 bytes on the wire; allowed are 100,000"


def test_largest_job_without_a_requestid_of_its_own() -> None:
    """The requestid that a job is going to have counts for its size where it names none."""
    job = of_size(LIMIT)
    del job["requestid"]
    assert parse(job, requestid="m" * 36)
    assert "100,001 bytes" in refusal(job, requestid="m" * 37)


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
    assert reasons[0].startswith("a\ufffdb: ")


def test_dispatch_on_the_wire() -> None:
    """A dispatch has its ids, its route and what it carries; what is in extra stands beside the rest."""
    carried = {"linkeddata": [{"type": "clid", "value": "1"}], "routingdata": {"interactiontype": "chat"}}
    assert interaction("dispatch", "r", "e", "R", {**carried, "extra": {"smsplan": "S"}}) == {
        "action": "dispatch",
        "requestid": "r",
        "externalid": "e",
        "route": "R",
        **carried,
        "smsplan": "S",
    }


@pytest.mark.parametrize(
    ("provider", "around"), [("", '{"requests":[]}'), ("Ü", '{"provider":"Ü","requests":[]}')]
)
def test_envelope(provider: str, around: str) -> None:
    """Around the requests stand the provider, if there is one, and a few characters."""
    assert envelope(provider) == len(around.encode())


def test_release_on_the_wire() -> None:
    """A release has its ids and nothing else."""
    assert interaction("release", "r", "e", None, {}) == {
        "action": "release",
        "requestid": "r",
        "externalid": "e",
    }


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
@pytest.mark.parametrize("inmost", [1, [], {}])
def test_depth_of_extra_is_bounded(inmost: Any, depth: int, taken: bool) -> None:
    """What is nested deeper than any stack can be sure to read is refused; what is empty makes no level."""
    extra: Any = {"x": inmost}
    for _ in range(depth - 1):
        extra = {"x": extra}
    job = {"externalid": "e", "route": "R", "extra": extra}
    if taken:
        assert parse(job).extra == extra
    else:
        with pytest.raises(JobError, match=r"^extra: is nested too deep"):
            parse(job)
