"""Who is logged in to the page: of each session the digest of its token, so that who reads the table can't use it."""

import hashlib
from typing import NamedTuple

from sqlalchemy import Connection


class Session(NamedTuple):
    """What is kept of a session that is not over.

    Attributes:
        name: of the user.
        stamp: what the user's entry was like at the login; a session whose user has another by now is over.
    """

    name: str
    stamp: str


def begin(conn: Connection, token: str, session: Session, seconds: float) -> None:
    """Open a session for so many seconds, whatever is done in it."""
    conn.exec_driver_sql(
        """insert into sessions (token, name, stamp, expires_at)
        values (%(token)s, %(name)s, %(stamp)s, now() + %(seconds)s * interval '1 second')""",
        {"token": _digest(token), "seconds": seconds, **session._asdict()},
    )


def find(conn: Connection, token: str) -> Session | None:
    """Find the session of a token, unless it is over."""
    found = conn.exec_driver_sql(
        "select name, stamp from sessions where token = %(token)s and expires_at > now()",
        {"token": _digest(token)},
    ).first()
    return Session(*found) if found else None


def end(conn: Connection, token: str) -> Session | None:
    """End a session and tell whose it was; None where there is none."""
    found = conn.exec_driver_sql(
        "delete from sessions where token = %(token)s returning name, stamp", {"token": _digest(token)}
    ).first()
    return Session(*found) if found else None


def _digest(token: str) -> bytes:
    # a plain digest is enough: nobody can guess 256 bits
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
