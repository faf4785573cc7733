"""${message}

A migration runs while workers run. So: short locks only (the lock timeout of ``env.py`` makes it give up rather
than queue), ``CREATE INDEX CONCURRENTLY`` in an ``autocommit_block``, new columns nullable or with a constant
default, ``NOT VALID`` constraints validated in a later step, and nothing that rewrites a large table.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
