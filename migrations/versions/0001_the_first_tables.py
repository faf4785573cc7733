"""The first tables.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UP = """
create type interaction_state as enum (
    'awaiting_dispatch', 'waiting', 'pending', 'dispatched', 'releasing',
    'released', 'cancelled', 'ended', 'failed', 'release_failed', 'orphaned'
);

create table interactions (
    id bigint generated always as identity primary key,
    externalid text not null,
    state interaction_state not null,
    lane text not null default 'live',
    -- the order of claims: releases, then live, then backlog
    rank smallint generated always as (
        case when state = 'releasing' then 0 when lane = 'live' then 1 else 2 end
    ) stored,
    route text,
    provider text not null default '',
    request jsonb not null default '{}',
    bytes integer not null default 0,
    dispatch_requestid text,
    release_requestid text,
    due_at timestamptz,
    call bigint,
    unsure bigint[] not null default '{}',
    may_hold boolean not null default false,
    attempts integer not null default 0,
    cap integer,
    first_sent_at timestamptz,
    last_error text,
    reason text,
    created_at timestamptz not null default now(),
    dispatched_at timestamptz,
    release_requested_at timestamptz,
    released_at timestamptz,
    updated_at timestamptz not null default now(),
    constraint externalid_length check (octet_length(externalid) between 1 and 1024),
    constraint lane_known check (lane in ('live', 'backlog')),
    constraint cap_positive check (cap >= 1),
    constraint attempts_counted check (attempts >= 0),
    constraint due_when_there_is_something_to_do check (
        (due_at is not null) = (state in ('awaiting_dispatch', 'pending', 'releasing'))
    ),
    constraint in_flight_only_in_work check (call is null or state in ('pending', 'releasing')),
    constraint in_flight_is_unsure check (call is null or call = any (unsure)),
    constraint dispatch_complete check (
        state not in ('waiting', 'pending', 'dispatched', 'failed')
        or (dispatch_requestid is not null and route is not null)
    ),
    constraint release_complete check (
        state not in ('awaiting_dispatch', 'releasing', 'released', 'release_failed', 'orphaned')
        or (release_requestid is not null and release_requested_at is not null)
    ),
    constraint dispatched_has_its_time check (state <> 'dispatched' or dispatched_at is not null),
    constraint released_has_its_time check (state <> 'released' or released_at is not null)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- at most one open lifecycle of an externalid; a release held for a dispatch by name stands beside it
create unique index interactions_open on interactions (externalid)
    where state in ('pending', 'dispatched', 'releasing')
    or (state = 'awaiting_dispatch' and dispatch_requestid is null);
create unique index interactions_waiting on interactions (externalid) where state = 'waiting';
-- the newest ended one; together with the two above every row has one entry
create index interactions_ended on interactions (externalid, id)
    where state in ('released', 'cancelled', 'ended', 'failed', 'release_failed', 'orphaned')
    or (state = 'awaiting_dispatch' and dispatch_requestid is not null);
create unique index interactions_dispatch_requestid on interactions (dispatch_requestid)
    where dispatch_requestid is not null;
create unique index interactions_release_requestid on interactions (release_requestid)
    where release_requestid is not null;
-- what a claim reads, and nothing else: finished rows have no entry, rows not yet due stand behind
create index interactions_due on interactions (provider, rank, due_at)
    where state in ('pending', 'releasing');
create index interactions_held on interactions (due_at) where state = 'awaiting_dispatch';
create index interactions_dispatched on interactions (dispatched_at) where state = 'dispatched';
-- what was perhaps sent too long ago to be sent again
create index interactions_sent on interactions (first_sent_at)
    where state in ('pending', 'releasing') and first_sent_at is not null;
create index interactions_parked on interactions (route) where state = 'pending' and due_at = 'infinity';
-- what prune looks for; a row gets its entry when it ends, and then rests
create index interactions_final on interactions (updated_at)
    where state in ('released', 'cancelled', 'ended', 'failed', 'release_failed', 'orphaned');
create index interactions_failed on interactions (state, id) where state in ('failed', 'release_failed');

create table invocations (
    id bigint generated always as identity primary key,
    provider text not null,
    ids bigint[] not null,
    releases bigint[] not null default '{}',
    probe boolean not null default false,
    started_at timestamptz not null default clock_timestamp(),
    seconds double precision,
    status integer,
    outcome text,
    error text,
    answer text,
    bytes integer
);
create index invocations_started on invocations using brin (started_at) with (pages_per_range = 16);
create index invocations_unsettled on invocations (started_at) where outcome is null;

create table events (
    id bigint generated always as identity primary key,
    interaction_id bigint not null,
    at timestamptz not null default now(),
    event text not null,
    detail text not null default ''
);
create index events_interaction on events (interaction_id, id);

create table receipts (
    requestid text primary key,
    externalid text not null,
    action text not null,
    at timestamptz not null default now()
);

create index receipts_at on receipts using brin (at) with (pages_per_range = 16);

create table rejections (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    door text not null,
    place text not null default '',
    reason text not null,
    job bytea not null
);

create table gate (
    id boolean primary key default true,
    paused_at timestamptz,
    pause_reason text,
    closed_until timestamptz,
    reason text,
    message text,
    epoch bigint not null default 0,
    failures integer not null default 0,
    probe_until timestamptz,
    rate double precision,
    slowed_at timestamptz,
    next_slot timestamptz,
    constraint one_row check (id),
    constraint reason_known check (
        reason in ('throttled', 'unauthorised', 'unreachable', 'misconfigured')
    ),
    constraint rate_positive check (rate > 0)
);
insert into gate default values;
-- counts claims, so that every tenth takes the backlog first; a sequence makes nobody wait
create sequence turns;

create table routes (
    route text primary key,
    refused integer not null default 0,
    refused_since timestamptz,
    held_at timestamptz,
    message text
);

create table providers (
    provider text primary key,
    closed_until timestamptz not null,
    failures integer not null default 0,
    message text
);
"""

DOWN = """
drop table providers, routes, gate, rejections, receipts, events, invocations, interactions;
drop sequence turns;
drop type interaction_state;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
