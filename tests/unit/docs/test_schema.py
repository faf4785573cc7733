"""The published schema says of a job what the code does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from worker.domain import schema
from worker.domain.job import JobError, parse

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docs" / "job.schema.json"
VALIDATOR = Draft202012Validator(json.loads(PUBLISHED.read_text()))

DISPATCH = {"externalid": "e", "route": "R"}
RELEASE = {"externalid": "e", "action": "release"}

# what a schema can't say is left out: NUL, bytes that are not characters, 1.0 where a whole number belongs
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAME = TEXT.filter(bool) | st.just("x" * 256)
WHOLE = st.integers(-(2**70), 2**70)
FLOAT = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
EXTRA = st.dictionaries(TEXT.filter(lambda name: name not in schema.WIRE), JSON, max_size=3)

LINKED = st.fixed_dictionaries(
    {"type": NAME, "value": TEXT}, optional={"label": TEXT, "owner": TEXT, "key": TEXT}
)
QUEUE = st.fixed_dictionaries({"agent": TEXT}, optional={"loggedintimeout": WHOLE, "loggedouttimeout": WHOLE})
SKILL = st.fixed_dictionaries({"name": TEXT}, optional={"expiryafter": WHOLE})
ROUTING = st.fixed_dictionaries(
    {},
    optional={
        "interactiontype": st.sampled_from(["live", "nonlive", "chat"]),
        "personalqueue": QUEUE,
        "skills": st.lists(SKILL, max_size=2),
    },
)
BOTH = {
    "requestid": st.none() | NAME,
    "provider": st.none() | TEXT | st.just("x" * 256),
    "lane": st.sampled_from(["live", "backlog"]),
}
EXTERNALID = NAME | st.just("x" * 1024)
DISPATCHES = st.fixed_dictionaries(
    {"externalid": EXTERNALID, "route": NAME},
    optional={
        **BOTH,
        "action": st.just("dispatch"),
        "linkeddata": st.none() | st.lists(LINKED, max_size=2),
        "routingdata": st.none() | ROUTING,
        "extra": st.none() | EXTRA,
        "again": st.booleans(),
        "dispatch_requestid": st.none(),
    },
)
RELEASES = st.fixed_dictionaries(
    {"externalid": EXTERNALID, "action": st.just("release")},
    optional={
        **BOTH,
        "route": st.none(),
        "linkeddata": st.none() | st.builds(list),
        "routingdata": st.none(),
        "extra": st.none() | st.builds(dict),
        "again": st.just(False),
        "dispatch_requestid": st.none() | NAME,
    },
)

FIELDS = st.sampled_from(
    [
        *schema.schema()["properties"],
        *(name for shape in schema.schema()["$defs"].values() for name in shape["properties"]),
        "nonsense",
    ]
)
ODD = st.one_of(
    JSON,
    st.sampled_from(["", "x" * 256, "x" * 257, "x" * 1024, "x" * 1025, "dispatch", "release", "live", "fax"]),
    st.builds(list),
    st.builds(dict),
    st.lists(LINKED, max_size=2),
    ROUTING,
    st.dictionaries(FIELDS, JSON, max_size=2),
)


def accepted(raw: Any) -> bool:
    """Tell whether a job is let in."""
    try:
        parse(raw)
    except JobError:
        return False
    return True


def agreed(job: Any) -> bool:
    """Tell whether a job is let in, as values and as text, on which the schema has to agree."""
    verdicts = {VALIDATOR.is_valid(job), accepted(job), accepted(json.dumps(job).encode())}
    assert len(verdicts) == 1
    return verdicts.pop()


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a job's values, the job first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def test_file_is_what_the_code_says() -> None:
    """The published file is what ``python -m worker.domain.schema > docs/job.schema.json`` writes."""
    command = [sys.executable, "-m", "worker.domain.schema"]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert written.stdout == PUBLISHED.read_bytes()
    assert VALIDATOR.schema == schema.schema()


def test_schema_is_one() -> None:
    """The file is a JSON Schema of the draft that it names, and names itself without a web host."""
    Draft202012Validator.check_schema(VALIDATOR.schema)
    assert VALIDATOR.schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert VALIDATOR.schema["$id"].startswith("urn:")


def test_every_field_of_a_job_is_described() -> None:
    """No field of a job is without its sentence."""
    assert all(rule["description"].endswith(".") for rule in VALIDATOR.schema["properties"].values())


def test_bounds_are_told_as_they_are() -> None:
    """The numbers in the descriptions are those of the code."""
    rules = VALIDATOR.schema["properties"]
    assert all(f"{bound:,} bytes" in rules[name]["description"] for name, bound in schema.BYTES.items())
    assert f"{schema.DEPTH} levels" in rules["extra"]["description"]
    assert f"{schema.LIMIT:,} bytes" in VALIDATOR.schema["description"]


def test_examples() -> None:
    """There is a dispatch and a release to copy, and both are let in."""
    examples = VALIDATOR.schema["examples"]
    assert [parse(example).action for example in examples] == ["dispatch", "release"]
    assert all(map(agreed, examples))


@given(DISPATCHES | RELEASES)
def test_good_jobs(job: dict[str, Any]) -> None:
    """What is made by the rules is let in."""
    assert agreed(job)


@given(st.data())
def test_nearly_good_jobs(data: st.DataObject) -> None:
    """One or two fields more, fewer or otherwise: the schema accepts what is let in, and nothing else."""
    job = data.draw(DISPATCHES | RELEASES)
    for _ in range(data.draw(st.integers(1, 2))):
        target = data.draw(st.sampled_from(list(objects(job))))
        name = data.draw(FIELDS | st.sampled_from([*target, "nonsense"]))
        if data.draw(st.booleans()):
            target[name] = data.draw(ODD)
        else:
            target.pop(name, None)
    agreed(job)


@given(JSON | st.dictionaries(FIELDS, ODD, max_size=6))
def test_odd_jobs(job: Any) -> None:
    """Whatever the values are, the schema accepts what is let in, and nothing else."""
    agreed(job)


@pytest.mark.parametrize("name", sorted(schema.schema()["properties"]))
@pytest.mark.parametrize("job", [DISPATCH, {**DISPATCH, "action": "dispatch"}, RELEASE], ids=str)
def test_empty_and_full_values_of_each_field(name: str, job: dict[str, Any]) -> None:
    """What may stand on a dispatch and on a release, null and empty values too, is the same in both."""
    for value in (None, False, True, 0, 1, "", "x", [], [{}], {}, {"x": 1}, "dispatch", "release", "live"):
        agreed({**job, name: value})
    agreed({other: job[other] for other in job if other != name})


@pytest.mark.parametrize("name", sorted(schema.WIRE | {"provider", "smsplan"}))
@pytest.mark.parametrize("value", [None, "x", {}])
def test_members_of_extra(name: str, value: Any) -> None:
    """Members of extra that are the job's own are refused, others are not; further in, any name will do."""
    assert agreed({**DISPATCH, "extra": {name: value}}) == (name not in schema.WIRE)
    assert agreed({**DISPATCH, "extra": {"x": {name: value}}})


def test_whole_number_with_a_decimal_point() -> None:
    """To a schema 1.0 is a whole number; here it is refused, and the description says so."""
    job = {**DISPATCH, "routingdata": {"skills": [{"name": "s", "expiryafter": 1.0}]}}
    assert VALIDATOR.is_valid(job)
    assert not accepted(job)
    assert "without a decimal point" in VALIDATOR.schema["description"]
