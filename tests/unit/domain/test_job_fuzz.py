"""Whatever comes, a job is read or refused: in words that can be kept, and that name the field."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.job import REASON_KEPT, Job, JobError, parse

DISPATCH = {
    "externalid": "e",
    "action": "dispatch",
    "requestid": "r",
    "route": "R",
    "provider": "P",
    "linkeddata": [
        {"type": "name", "value": "v"},
        {"type": "object", "value": "v", "label": "l", "owner": "o", "key": "k"},
    ],
    "routingdata": {
        "interactiontype": "chat",
        "personalqueue": {"agent": "a", "loggedintimeout": 1, "loggedouttimeout": 2},
        "skills": [{"name": "s", "expiryafter": 0}, {"name": "m"}],
    },
    "extra": {"smsplan": {"name": "S", "steps": [1, 2.5, None]}},
    "lane": "backlog",
    "again": True,
}
RELEASE = {"externalid": "e", "action": "release", "dispatch_requestid": "r"}

WORD = "Jane Doe"
CHOICES = ("action", "lane", "interactiontype")

TEXTS = st.text(st.characters(), max_size=20)  # characters() has the surrogates that text() leaves out
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Job.__struct_fields__, "nonsense"])
JOBS = st.dictionaries(FIELDS, JSON, max_size=8) | st.dictionaries(FIELDS, JSON, max_size=3).map(
    lambda odd: {"externalid": "e", "route": "R", **odd}
)

Path = tuple[str | int, ...]


def refused(raw: Any) -> str | None:
    """Read a job: the reason if it is refused; what is read survives being written and read again."""
    try:
        job = parse(raw)
    except JobError as error:
        reason = str(error)
        assert reason.isprintable()
        assert ": " in reason
        assert len(reason) <= REASON_KEPT
        return reason
    assert parse(msgspec.json.encode(job)) == job
    return None


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a job's values."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from paths(inner, (*path, step))


def put(job: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Make the job that has another value in this place."""
    holder = whole = deepcopy(job)
    for step in path[:-1]:
        holder = holder[step]  # type: ignore[index]
    holder[path[-1]] = value  # type: ignore[index]
    return whole


def dotted(path: Path) -> str:
    """Write a place as reasons do."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def nested(levels: int) -> Any:
    """Nest a list so deep."""
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


@given(JSON | JOBS)
def test_any_value(raw: Any) -> None:
    """Any values that JSON may come to, NaN and lone surrogates among them, are read or refused."""
    refused(raw)


@given(st.binary(max_size=60) | (JSON | JOBS).map(lambda value: json.dumps(value).encode()))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes, and any JSON text, are read or refused."""
    refused(raw)


@given(st.data())
def test_damaged_text(data: st.DataObject) -> None:
    """The text of a good job in which some bytes were replaced is read or refused."""
    text = json.dumps(data.draw(st.sampled_from((DISPATCH, RELEASE)))).encode()
    start = data.draw(st.integers(0, len(text)))
    refused(text[:start] + data.draw(st.binary(max_size=6)) + text[start + data.draw(st.integers(0, 6)) :])


@given(JOBS)
def test_text_and_values_are_refused_alike(raw: dict[str, Any]) -> None:
    """The same job is read or refused in the same words, whether it comes as text or as values."""
    assert refused(raw) == refused(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("job", "path"), [(job, path) for job in (DISPATCH, RELEASE) for path in paths(job)], ids=str
)
@pytest.mark.parametrize(
    "value", [None, True, 7, 1.5, float("nan"), "", "a\0", "\ud800", [], [None], {}, {"x": 1}], ids=repr
)
def test_wrong_value_in_every_place(job: dict[str, Any], path: Path, value: Any) -> None:
    """A value that does not belong in its place is told by this place, or by one within it."""
    odd = put(job, path, value)
    reason = refused(odd)
    assert reason == refused(json.dumps(odd).encode())
    if reason is not None and path != ("action",):
        place = dotted(path)
        assert reason.startswith((f"{place}: ", f"{place}.", f"{place}["))


@given(st.sampled_from([(), *paths(DISPATCH)]), st.text(st.characters(), max_size=50), JSON)
def test_unknown_field_in_every_object(path: Path, name: str, value: Any) -> None:
    """A field that an object of the job does not have is told with the one that may be meant, or all of them."""
    holder: Any = DISPATCH
    for step in path:
        holder = holder[step]
    known = {"dispatch_requestid", "label", "owner", "key", "expiryafter"}
    if not isinstance(holder, dict) or path[:1] == ("extra",) or name in holder or name in known:
        return
    reason = refused(put(DISPATCH, (*path, name), value))
    assert reason is not None
    assert "is no field of" in reason
    assert "; did you mean " in reason or "; allowed are " in reason


@pytest.mark.parametrize("path", [*paths(DISPATCH)], ids=str)
def test_ten_thousand_levels(path: Path) -> None:
    """What is nested 10,000 levels deep is refused wherever it stands, in text as in values."""
    marked = json.dumps(put(DISPATCH, path, "@@")).encode()
    assert refused(marked.replace(b'"@@"', b"[" * 10_000 + b"]" * 10_000))
    assert refused(marked.replace(b'"@@"', b'{"a":' * 10_000 + b"1" + b"}" * 10_000))
    assert refused(put(DISPATCH, path, nested(10_000)))


@pytest.mark.parametrize("levels", [100, 500, 900, 1000, 1100])
def test_levels_near_the_end_of_the_stack(levels: int) -> None:
    """What is nested as deep as the stack just bears, or does not, is refused."""
    for value in (nested(levels), ["\0", nested(levels)], [nested(levels), "\ud800"]):
        assert refused(put(DISPATCH, ("extra", "x"), value))
    text = b'{"externalid":"e","route":"R","extra":{"x":%s}}'
    assert refused(text % (b"[" * levels + b"]" * levels))
    assert refused(text % (b"[" * levels + rb'"\ud800"' + b"]" * levels))
    assert refused(text % (b"[" * levels))


@pytest.mark.parametrize(
    "raw",
    [
        b" " * 5_000_000,
        b"[" * 5_000_000,
        b"\xff" * 5_000_000,
        b'"%s"' % (b"x" * 5_000_000),
        b'{"externalid":"%s"}' % (b"x" * 5_000_000),
        b'{"%s":1}' % (b"x" * 5_000_000),
        b'{"externalid":%s}' % (b"1" * 5_000_000),
        b'{"linkeddata":[%s7]}' % (b'{"type":"a","value":"b"},' * 40_000),
        b'{"externalid":"e","route":"R","extra":{"x":"%s"}}' % (b"y" * 5_000_000),
        b'{"externalid":"e","route":"R","extra":{"%s":"\\u0000"}}' % (b"y" * 5_000_000),
        b'{"externalid":"e","route":"R","lane":"%s"}' % (b"y" * 5_000_000),
    ],
    ids=range(11),
)
def test_megabytes(raw: bytes) -> None:
    """Megabytes of anything are refused in few words."""
    assert refused(raw)


@pytest.mark.parametrize("externalid", ["", "e" * 1025, "e" * 10_000, "é" * 513, "\U0001f600" * 10_000])
def test_externalid_out_of_bounds(externalid: str) -> None:
    """An empty externalid is refused, and so is a long one; the reason tells its length, not its words."""
    reason = refused({**DISPATCH, "externalid": externalid})
    assert reason is not None
    assert reason.startswith("externalid: is ")
    assert "1,024" in reason
    assert not externalid or externalid[:5] not in reason


@given(st.sampled_from([p for p in paths(DISPATCH) if p[-1] not in CHOICES]), st.data())
def test_customers_words_are_never_told(path: Path, data: st.DataObject) -> None:
    """A reason tells the type and length of what came, never a text of it, but for choices and names."""
    words = st.sampled_from([WORD, WORD + "\0", WORD + "\ud800", WORD * 1000])
    odd = data.draw(
        words | st.lists(words, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), words, max_size=2)
    )
    job = put(DISPATCH, path, odd)
    text = json.dumps(job).encode()
    for raw in (job, text, text[:-1], text.replace(b"Doe", b"\xff")):
        assert "Jane" not in (refused(raw) or "")
