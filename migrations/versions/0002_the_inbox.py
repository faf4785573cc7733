"""The inbox: jobs that a service inserts in its own transaction.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = """
create table inbox (
    id bigint generated always as identity primary key,
    job jsonb not null,
    created_at timestamptz not null default now()
) with (
    -- rows come and go: what is dead must not pile up in front of what is next
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000
);

-- A job that names no requestid goes by its row's id, to the API too. Counted from the microsecond of the migration,
-- no two databases give out the same, be it that of another environment or this one made anew.
do $$
begin
    execute format('alter table inbox alter column id set start with %1$s restart with %1$s',
        (extract(epoch from clock_timestamp()) * 1000000)::bigint);
end $$;

-- wakes the reader when the service's transaction commits; equal notifications of one transaction are one
create function inbox_notify() returns trigger language plpgsql as $$
begin
    notify vcc_inbox;
    return null;
end $$;
create trigger inbox_notify after insert on inbox for each statement execute function inbox_notify();
"""

# Where a job came from, to recognise one that is rejected a second time. First, since it can be run again: a try
# that failed leaves an index behind that is of no use.
INDEX = (
    "drop index concurrently if exists rejections_place",
    "create index concurrently rejections_place on rejections (door, place) where place <> ''",
)

DOWN = """
drop index rejections_place;
drop table inbox;
drop function inbox_notify;
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INDEX:
            op.execute(statement)
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
