"""``vcc up``: what an operator may ask for."""

from typing import Annotated

import typer

from worker.ops.options import Json


def up(
    simulator: Annotated[
        bool, typer.Option("--simulator", help="Call a stand-in of the API instead of the real one.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="How many worker processes.")] = 1,
    flower: Annotated[bool, typer.Option("--flower", help="Run Flower, Celery's own page, too.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Flower's port.")] = 5555,
    page: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="The page's port, or 0 for no page.")
    ] = 8899,
    as_json: Json = False,
) -> None:
    """Run everything on this machine, until Ctrl-C.

    Servers, migrations, workers, clock, page. PostgreSQL and Redis are embedded, with their data in .vcc, unless
    DATABASE_URL and REDIS_URL are set. Other vcc commands in this folder find them by themselves.
    """
    from worker.ops.house import Plan, run  # noqa: PLC0415 - heavy

    run(Plan(simulator, workers, port if flower else None, page or None), as_json=as_json)
