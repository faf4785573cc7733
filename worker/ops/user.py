"""``vcc user``: an entry for ``VCC_WEB_USERS``."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
import getpass
import sys
from enum import StrEnum
from typing import Annotated

import typer

from worker.ops.failures import CommandError
from worker.ops.options import Json
from worker.ops.printing import emit, tell


class Role(StrEnum):
    """What a user of the page may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"


def user(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    role: Annotated[
        Role, typer.Option(help="viewer: look, without what customers wrote; operator: that too, and change.")
    ] = Role.VIEWER,
    as_json: Json = False,
) -> None:
    """Make an entry for VCC_WEB_USERS.

    Asks for the password, or reads a line from stdin; prints the entry, with the password's hash. Put it beside the
    others, separated by spaces, and restart `vcc web`. Nothing is stored here.
    """
    from worker.ops.web import users

    try:
        entry = users.entry(name, role.value, _password())
    except ValueError as error:
        raise CommandError(str(error)) from None
    if as_json:
        emit({"name": name, "role": role.value, "entry": entry})
    else:
        tell(entry)


def _password() -> str:
    if not sys.stdin.isatty():
        try:
            return sys.stdin.readline().rstrip("\r\n")
        except UnicodeDecodeError:
            raise CommandError("the password is no UTF-8") from None
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise CommandError("these were two passwords: try again")
    return first
