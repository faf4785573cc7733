"""``vcc migrate``, ``prune``, ``worker``, ``beat`` and ``flower``: what runs the house."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
import importlib
from collections import Counter
from typing import Annotated

import typer

from worker.ops import resources
from worker.ops.options import Json, Pool
from worker.ops.printing import emit, tell

LogLevel = Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")]
Extra = Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="Further arguments for Celery.")]


def migrate(as_json: Json = False) -> None:
    """Bring the database to what this version needs."""
    from worker.store import migrate as store
    from worker.store.database import connect

    url = resources.settings().database()
    engine = connect(url)
    try:
        missing = store.pending(engine)
    finally:
        engine.dispose()
    store.upgrade(url)
    if as_json:
        emit({"applied": missing})
    else:
        tell(f"migrated: {', '.join(missing)}" if missing else "up to date already")


def prune(as_json: Json = False) -> None:
    """Delete what is older than VCC_KEEP_FOR.

    That is ended lifecycles, calls, receipts and rejections untouched for so long.
    """
    from worker.store import prune as store

    gone: Counter[str] = Counter()
    with resources.opened() as (settings, engine):
        for name, rows in store.prune(engine, settings.keep_for):
            gone[name] += rows
    if as_json:
        emit(gone)
    else:
        tell(f"deleted: {', '.join(f'{rows:,} {name}' for name, rows in gone.items())}")


def worker(
    extra: Extra = None,
    pool: Annotated[Pool, typer.Option(help="How it works on several calls at once.")] = Pool.THREADS,
    concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="On how many at once.", show_default="6")
    ] = None,
    loglevel: LogLevel = "info",
) -> None:
    """Run a worker.

    It takes jobs in and delivers them, until Ctrl-C or SIGTERM.
    """
    options = ["--pool", pool.value, "--loglevel", loglevel]
    options += ["--concurrency", str(concurrency)] if concurrency else []
    _run_celery("worker", *options, *(extra or []))


def beat(extra: Extra = None, loglevel: LogLevel = "info") -> None:
    """Run the clock that wakes the workers.

    One is enough, any number may run.
    """
    _run_celery("beat", "--loglevel", loglevel, *(extra or []))


def flower(
    extra: Extra = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="FLOWER_PORT", help="The port to listen at.")
    ] = 5555,
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", envvar="FLOWER_ADDRESS", help="The address to listen at.")
    ] = "127.0.0.1",
) -> None:
    """Run Flower, Celery's own page.

    With FLOWER_BASIC_AUTH=user:password it asks for that, whatever the path; without it listens to this machine only.
    """
    importlib.import_module("flower")  # else Celery, too, would not know it, and not say why
    resources.settings().redis()
    from worker.app import app
    from worker.ops.flowering import start

    raise typer.Exit(start(app, [f"--address={address}", f"--port={port}", *(extra or [])]))


def _run_celery(command: str, *options: str) -> None:
    """Become one of Celery's commands, once the settings that it will need are known to be right."""
    from worker.vonage.transport import check_urls

    settings = resources.settings()
    settings.redis()
    if command == "worker":
        settings.database()
        check_urls(settings)
    from worker.app import app

    # its banner would be no line of the log
    raise typer.Exit(app.start(["--quiet", command, *options]) or 0)
