"""The inbox's reading side: rows of the table ``inbox``, in the order of their ids.

Read, recorded, then removed. Killed between the last two, the rows are read again and recognised by their requestids.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from worker.intake.record import Incoming
from worker.store import inbox


class Inbox:
    """The door, seen from inside.

    Args:
        conn: the connection that holds the inbox's seat.
    """

    name = "inbox"

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def open(self) -> None:
        """Ask to be notified."""
        with self._conn.begin():
            inbox.listen(self._conn)

    def read(self, limit: int, budget: int) -> list[Incoming]:
        """The oldest rows: so many, of so many bytes, but always one."""
        with self._conn.begin():
            found = inbox.read(self._conn, limit, budget)
        return [Incoming(job.encode(), str(number), f"row {number}") for number, job in found]

    def done(self, batch: Sequence[Incoming]) -> None:
        """Remove the rows."""
        with self._conn.begin():
            inbox.remove(self._conn, [int(incoming.requestid) for incoming in batch])

    def wait(self, seconds: float) -> bool:
        """Wait for a service's commit."""
        return inbox.wait(self._conn, seconds)
