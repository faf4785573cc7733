"""``vcc forget``: a customer's words are erased, the skeleton stays."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.ops import resources
from worker.ops.acting import agreed, who
from worker.ops.failures import CommandError
from worker.ops.options import Json, readable
from worker.ops.printing import emit, plain, say, tell

if TYPE_CHECKING:
    from worker.store.forget import Forgotten

LOOKED_THROUGH = 100_000
"""Entries of the stream that are read at most: it is empty most of the time."""

NAMED = 20
"""Numbers of rejected jobs that are told at most."""


def forget(
    externalid: Annotated[str, typer.Argument(metavar="EXTERNALID", callback=readable)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a customer's words.

    From all lifecycles of the externalid, what the API answered to calls that carried them, and rejected jobs that
    name it. Ids, states, times, route and provider stay. Backups and the server's log are not touched.
    """
    from worker.store import forget as store

    with resources.opened() as (settings, engine):
        if settings.redis_url is not None:
            _see_that_none_comes(settings.redis(), externalid)
        try:
            would = store.forget(engine, externalid, who(), really=False)
            if not would.known:
                raise CommandError(
                    f"nothing is known of {plain(externalid)}: see `vcc list` and `vcc rejections`"
                )
            go = not dry_run and (yes or agreed(f"Erase for good: {would.sentence}?"))
            done = store.forget(engine, externalid, who()) if go else would
        except store.StillNeededError as error:
            raise CommandError(f"{plain(externalid)} can't be forgotten yet: {error}") from None
    _print(externalid, done, erased=go, as_json=as_json)


def _print(externalid: str, found: "Forgotten", *, erased: bool, as_json: bool) -> None:
    if found.mentions:
        numbers = ", ".join(map(str, found.mentions[:NAMED])) + (" …" if len(found.mentions) > NAMED else "")
        say(f"warning: {len(found.mentions):,} rejected jobs that mention it stay: look at number {numbers}")
    if as_json:
        emit({"externalid": externalid, "erased": erased, **asdict(found)})
    elif not found.anything:
        tell(f"{plain(externalid)}: there was nothing to erase any more")
    else:
        tell(f"{plain(externalid)}: {'erased' if erased else 'would be erased'}: {found.sentence}")


def _see_that_none_comes(url: str, externalid: str) -> None:
    """Refuse while a job about it stands in the stream: taken in, it would bring the words again."""
    from redis.exceptions import RedisError

    from worker import sentinels
    from worker.client import STREAM
    from worker.store.forget import externalids

    try:
        with sentinels.client(url, socket_timeout=5, socket_connect_timeout=5) as redis:
            entries = redis.xrange(STREAM, count=LOOKED_THROUGH)
    except RedisError:
        say("warning: Redis can't be reached, so nobody looked whether a job about it is in the stream")
        return
    if len(entries) == LOOKED_THROUGH:
        say(
            f"warning: only the first {LOOKED_THROUGH:,} jobs in the stream were looked at: forget it again later"
        )
    jobs = (value for _, fields in entries for value in (fields or {}).values())
    if any(externalid in externalids(job) for job in jobs):
        raise CommandError(
            f"{plain(externalid)} can't be forgotten yet: a job about it is in the stream: wait until it was taken in"
        )
