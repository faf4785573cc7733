"""``vcc import``: what an operator may ask for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worker.ops.options import Json, Kind, Lane, Provider, readable


class Format(StrEnum):
    """What a source may be."""

    AUTO = "auto"
    MBOX = "mbox"
    MAILDIR = "maildir"
    EML = "eml"
    CSV = "csv"
    JSONL = "jsonl"


Route = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The named route of entries that name none; emails never do.", callback=readable
    ),
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="Put before every externalid.", callback=readable)]
From = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The header (emails) or column (CSV) with the externalid; else Message-ID, or externalid.",
        callback=readable,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="TEMPLATE",
        help="A link to each email for the agent; {id} stands for its id, {externalid} for prefix and id.",
        callback=readable,
    ),
]
Rejects = Annotated[Path | None, typer.Option(metavar="FILE", help="Write rejected entries there, as JSONL.")]
Duplicates = Annotated[Path | None, typer.Option(metavar="FILE", help="Write duplicates there, as JSONL.")]


def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE", help="Files and folders.")],
    route: Route = None,
    format: Annotated[Format, typer.Option(help="What they are; auto looks at them.")] = Format.AUTO,  # noqa: A002
    provider: Provider = None,
    lane: Annotated[Lane, typer.Option(help="The lane of entries that name none.")] = Lane.BACKLOG,
    interactiontype: Annotated[Kind, typer.Option(help="How VCC is to route them.")] = Kind.NONLIVE,
    externalid_prefix: Prefix = "",
    externalid_from: From = None,
    url: Url = None,
    again: Annotated[bool, typer.Option("--again", help="Dispatch once more what was before.")] = False,
    rejects: Rejects = None,
    duplicates: Duplicates = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all that is new was sent.")] = False,
    as_json: Json = False,
) -> None:
    """Import a backlog of emails or jobs.

    From mbox, Maildir, folders of .eml files, CSV, or JSONL with a job a line.

    Running the same import twice dispatches nothing twice. Entries that can't be jobs stop nothing: they are
    counted, and kept whole for `vcc rejections`. The bodies of emails are neither stored nor sent.
    """
    from worker.intake.sources import Options  # noqa: PLC0415 - heavy
    from worker.ops.importing import Order, carry_out  # noqa: PLC0415 - heavy

    if wait and dry_run:
        raise typer.BadParameter("a --dry-run sends nothing to wait for", param_hint="--wait")
    decided = Options(
        route, provider or "", lane.value, externalid_prefix, externalid_from, url, interactiontype.value
    )
    order = Order(sources, format.value, decided, rejects, duplicates, again, dry_run, wait)
    raise typer.Exit(carry_out(order, as_json=as_json))
