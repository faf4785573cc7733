"""Run PostgreSQL although we are root, which it refuses, or a user without a name, which it can't look up.

First choice is a user namespace in which we appear as nobody (``unshare``): the files stay ours and no folder
has to be opened. Where that is not permitted (as in many containers) root runs it as the user nobody, who
must be able to reach the program and the folder of its data.
"""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Never

_NOBODY = "nobody"
_UNSHARE = ("--user", "--map-user=65534", "--map-group=65534")


@dataclass(frozen=True)
class Account:
    """As whom a program runs.

    Attributes:
        prefix: what stands before the command.
        user: the user to become; None: stay who we are.
    """

    prefix: tuple[str, ...] = ()
    user: str | None = None

    def own(self, data: Path) -> None:
        """Make the folder and all below belong to this account, where we are root and it does not."""
        uid, gid = (0, 0) if self.user is None else pwd.getpwnam(self.user)[2:4]
        if os.geteuid() == 0 and data.stat().st_uid != uid:
            for path in (data, *data.rglob("*")):
                os.chown(path, uid, gid, follow_symlinks=False)


def account(program: Path, data: Path) -> Account:
    """Find an account that ``program`` can run in, with its files below ``data``.

    Raises:
        PermissionError: there is none; the message has the remedy.
    """
    if os.geteuid() == 0:
        return _namespace(program) or _nobody(program, data)
    if _has_name(os.geteuid()):
        return Account()
    return _namespace(program) or _nameless()


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid))
    except KeyError:
        return False


def _namespace(program: Path) -> Account | None:
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    tried = subprocess.run(  # noqa: S603 - both paths are our own
        [unshare, *_UNSHARE, program, "--version"], capture_output=True, check=False
    )
    return Account(prefix=(unshare, *_UNSHARE)) if tried.returncode == 0 else None


def _nobody(program: Path, data: Path) -> Account:
    for folder in sorted({*program.parents, data, *data.parents}):
        if not folder.stat().st_mode & 0o001:
            raise PermissionError(
                f"PostgreSQL refuses to run as root, user namespaces are not permitted, and the user {_NOBODY} "
                f"can't enter {folder}: run this as an ordinary user, or `chmod o+x {folder}`, "
                "or set DATABASE_URL to another server"
            )
    return Account(user=_NOBODY)


def _nameless() -> Never:
    raise PermissionError(
        f"PostgreSQL runs for users with a name only, user {os.geteuid()} has none, and user namespaces are not "
        "permitted: add the user to /etc/passwd, or set DATABASE_URL to another server"
    )
