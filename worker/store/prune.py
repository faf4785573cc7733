"""Delete what is older than it has to be kept: in small batches, each a transaction, so that nobody waits."""

from collections.abc import Iterator

from sqlalchemy import Engine

BATCH = 5000

# events go with their interaction; a receipt older than that can only be met by a job that old
_OLD = "now() - %(keep)s * interval '1 second'"
STATEMENTS = {
    "interactions": f"""with gone as (
            delete from interactions where id in (
                select id from interactions
                where state in ('released', 'cancelled', 'ended', 'failed', 'release_failed', 'orphaned')
                  and updated_at < {_OLD} limit {BATCH} for update skip locked)
            returning id),
        told as (delete from events where interaction_id in (select id from gone))
        select count(*) from gone""",
    **{
        table: f"""with gone as (
            delete from {table} where ctid = any (array(
                select ctid from {table} where {old} limit {BATCH} for update skip locked))
            returning 1)
        select count(*) from gone"""
        for table, old in (
            # what is not added up yet would be missing for good from what calls came to
            ("invocations", f"started_at < {_OLD} and id <= (select upto from tallied)"),
            ("receipts", f"at < {_OLD}"),
            ("rejections", f"at < {_OLD}"),
            ("tallies", f"minute < {_OLD}"),
            ("imports", f"updated_at < {_OLD}"),
            ("sessions", "expires_at < now()"),
        )
    },
}


def prune(engine: Engine, keep: float) -> Iterator[tuple[str, int]]:
    """Delete ended lifecycles, calls, receipts, rejections and what is told of imports, untouched for so many seconds.

    And sessions that are over. What calls came to since ever stays, and the audit: nothing ever deletes from it.

    Yields:
        After each batch: the table, and how many rows went.
    """
    for table, statement in STATEMENTS.items():
        gone = BATCH
        while gone == BATCH:
            with engine.begin() as conn:
                gone = conn.exec_driver_sql(statement, {"keep": keep}).scalar_one()
            yield table, gone
