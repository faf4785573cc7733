"""What the pages work with."""

from collections.abc import Callable
from dataclasses import dataclass

from redis import Redis
from sqlalchemy import Engine
from starlette.requests import Request

from worker.ops.census import Census
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Deps:
    """What the pages work with.

    Attributes:
        settings: from the environment.
        engine: the database.
        redis: gives the client; raises SettingsError where there is no URL.
        census: the last counts.
        ring: asks the workers for a delivery, and stands it if Redis is away.
    """

    settings: Settings
    engine: Engine
    redis: "Callable[[], Redis]"
    census: Census
    ring: Callable[[], None]


def deps(request: Request) -> Deps:
    """Give what the page of a request works with."""
    found: Deps = request.app.state.deps
    return found
