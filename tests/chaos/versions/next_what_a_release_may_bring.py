"""What a release may bring while workers of the one before still run: it adds, and takes nothing away."""

from alembic import op

revision = "next"
down_revision = "0002"


def upgrade() -> None:
    # first, since it can be run again
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists next_index")
        op.execute("create index concurrently next_index on interactions (route) where state = 'failed'")
    op.execute("create table next_table (id bigint primary key)")
    op.execute("alter table interactions add column next_note text")
    op.execute("alter table invocations add column next_count integer not null default 0")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists next_index")
    op.execute("alter table invocations drop column next_count")
    op.execute("alter table interactions drop column next_note")
    op.execute("drop table next_table")
