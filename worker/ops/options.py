"""Options that several commands share, and what may be chosen for them."""

from enum import StrEnum
from typing import Annotated, TypeVar, cast

import typer

T = TypeVar("T", bound=str | list[str] | None)


class Lane(StrEnum):
    """How urgent an interaction is."""

    LIVE = "live"
    BACKLOG = "backlog"


class Kind(StrEnum):
    """What ``routingdata.interactiontype`` may be."""

    LIVE = "live"
    NONLIVE = "nonlive"
    CHAT = "chat"


class GivenUp(StrEnum):
    """States that an operator's retry takes up."""

    FAILED = "failed"
    RELEASE_FAILED = "release_failed"


class Pool(StrEnum):
    """Celery's pools that work here."""

    THREADS = "threads"
    PREFORK = "prefork"
    SOLO = "solo"


def readable(value: T) -> T:
    """Refuse bytes of the command line that are no text, which neither JSON nor the database can take."""
    texts: list[str] = [value] if isinstance(value, str) else cast("list[str]", value or [])
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter("is not valid UTF-8") from None
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Provider = Annotated[
    str | None, typer.Option(metavar="NAME", help="The registered provider.", callback=readable)
]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Show the newest N.")]
