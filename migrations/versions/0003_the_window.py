"""The operators' window: what it looks up by index, what it counts, who did what.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = """
-- when a customer's words were taken out of the row by an operator; it can't be sent again
alter table interactions add column forgotten_at timestamptz;

-- what settled calls came to, minute by minute, added up when nothing of a minute is under way any more
create table tallies (
    minute timestamptz not null,
    outcome text not null,
    calls bigint not null,
    interactions bigint not null,
    seconds numeric not null,
    buckets bigint[] not null,
    primary key (minute, outcome)
);
-- the same since ever: counters that never go back, whatever is pruned
create table totals (
    outcome text primary key,
    calls bigint not null,
    interactions bigint not null,
    seconds numeric not null,
    buckets bigint[] not null
);
-- up to which call both have been added up
create table tallied (
    id boolean primary key default true,
    upto bigint not null default 0,
    constraint one_row check (id)
);
insert into tallied default values;

-- who changed what by hand; kept for good
create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    who text not null,
    action text not null,
    detail text not null default ''
);

create index audit_pauses on audit (at) where action = 'pause';

-- who is logged in to the page: of a session only the digest of its token
create table sessions (
    token bytea primary key,
    name text not null,
    stamp text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

-- batch imports, as they report themselves
create table imports (
    id bigint generated always as identity primary key,
    who text not null,
    source text not null,
    route text,
    started_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    share double precision,
    read bigint not null default 0,
    new bigint not null default 0,
    duplicate bigint not null default 0,
    rejected bigint not null default 0,
    outcome text
);
"""

# First, since it can be run again: a try that failed leaves an index behind that is of no use.
INDEX = (
    # beside those that failed, what ended otherwise than by a release
    "drop index concurrently if exists interactions_exceptional",
    """create index concurrently interactions_exceptional on interactions (state, id)
    where state in ('cancelled', 'ended', 'orphaned')""",
    "drop index concurrently if exists interactions_errors",
    "create index concurrently interactions_errors on interactions (id) where last_error is not null",
    # the calls of one interaction; without a list of what is still to be entered, which one claim in thousands would
    # work off for all
    "drop index concurrently if exists invocations_ids",
    "create index concurrently invocations_ids on invocations using gin (ids) with (fastupdate = off)",
)

DOWN = """
drop index interactions_exceptional, interactions_errors, invocations_ids;
drop table tallies, totals, tallied, audit, sessions, imports;
alter table interactions drop column forgotten_at;
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INDEX:
            op.execute(statement)
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
