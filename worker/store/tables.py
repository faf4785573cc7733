"""The tables as SQLAlchemy sees them: for composed queries, and to hold the migrations against.

What each column is for stands in ``docs/lifecycle.md``; constraints and indexes with their reasons in
``migrations/``. A test compares the columns here with a migrated database.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Double,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from worker.domain.lifecycle import State

metadata = MetaData()
_time = DateTime(timezone=True)


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


def _text(name: str, *, required: bool = False) -> Column[str]:
    return Column(name, Text, nullable=not required)


interactions = Table(
    "interactions",
    metadata,
    _id(),
    _text("externalid", required=True),
    Column("state", ENUM(*[s.value for s in State], name="interaction_state"), nullable=False),
    _text("lane", required=True),
    Column("rank", SmallInteger, Computed("lane", persisted=True)),
    _text("route"),
    _text("provider", required=True),
    Column("request", JSONB, nullable=False),
    Column("bytes", Integer, nullable=False),
    _text("dispatch_requestid"),
    _text("release_requestid"),
    Column("due_at", _time),
    Column("call", BigInteger),
    Column("unsure", ARRAY(BigInteger), nullable=False),
    Column("may_hold", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("cap", Integer),
    Column("first_sent_at", _time),
    _text("last_error"),
    _text("reason"),
    Column("forgotten_at", _time),
    Column("created_at", _time, nullable=False),
    Column("dispatched_at", _time),
    Column("release_requested_at", _time),
    Column("released_at", _time),
    Column("updated_at", _time, nullable=False),
)

invocations = Table(
    "invocations",
    metadata,
    _id(),
    _text("provider", required=True),
    Column("ids", ARRAY(BigInteger), nullable=False),
    Column("releases", ARRAY(BigInteger), nullable=False),
    Column("probe", Boolean, nullable=False),
    Column("started_at", _time, nullable=False),
    Column("seconds", Double),
    Column("status", Integer),
    _text("outcome"),
    _text("error"),
    _text("answer"),
    Column("bytes", Integer),
)

events = Table(
    "events",
    metadata,
    _id(),
    Column("interaction_id", BigInteger, nullable=False),
    Column("at", _time, nullable=False),
    _text("event", required=True),
    _text("detail", required=True),
)

receipts = Table(
    "receipts",
    metadata,
    Column("requestid", Text, primary_key=True),
    _text("externalid", required=True),
    _text("action", required=True),
    Column("at", _time, nullable=False),
)

rejections = Table(
    "rejections",
    metadata,
    _id(),
    Column("at", _time, nullable=False),
    _text("door", required=True),
    _text("place", required=True),
    _text("reason", required=True),
    Column("job", LargeBinary, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    _id(),
    Column("job", JSONB, nullable=False),
    Column("created_at", _time, nullable=False),
)

gate = Table(
    "gate",
    metadata,
    Column("id", Boolean, primary_key=True),
    Column("paused_at", _time),
    _text("pause_reason"),
    Column("closed_until", _time),
    _text("reason"),
    _text("message"),
    Column("epoch", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("probe_until", _time),
    Column("rate", Double),
    Column("slowed_at", _time),
    Column("next_slot", _time),
)

routes = Table(
    "routes",
    metadata,
    Column("route", Text, primary_key=True),
    Column("refused", Integer, nullable=False),
    Column("refused_since", _time),
    Column("held_at", _time),
    _text("message"),
)

providers = Table(
    "providers",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("closed_until", _time, nullable=False),
    Column("failures", Integer, nullable=False),
    _text("message"),
)


def _counted() -> tuple[Column[Any], ...]:
    return (
        Column("calls", BigInteger, nullable=False),
        Column("interactions", BigInteger, nullable=False),
        Column("seconds", Numeric, nullable=False),
        Column("buckets", ARRAY(BigInteger), nullable=False),
    )


tallies = Table(
    "tallies",
    metadata,
    Column("minute", _time, primary_key=True),
    Column("outcome", Text, primary_key=True),
    *_counted(),
)

totals = Table("totals", metadata, Column("outcome", Text, primary_key=True), *_counted())

tallied = Table(
    "tallied",
    metadata,
    Column("id", Boolean, primary_key=True),
    Column("upto", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    _id(),
    Column("at", _time, nullable=False),
    _text("who", required=True),
    _text("action", required=True),
    _text("detail", required=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token", LargeBinary, primary_key=True),
    _text("name", required=True),
    _text("stamp", required=True),
    Column("created_at", _time, nullable=False),
    Column("expires_at", _time, nullable=False),
)

imports = Table(
    "imports",
    metadata,
    _id(),
    _text("who", required=True),
    _text("source", required=True),
    _text("route"),
    Column("started_at", _time, nullable=False),
    Column("updated_at", _time, nullable=False),
    Column("ended_at", _time),
    Column("share", Double),
    Column("read", BigInteger, nullable=False),
    Column("new", BigInteger, nullable=False),
    Column("duplicate", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    _text("outcome"),
)
