"""Pack claimed rows into the body of one Invocation: pure.

The claim has added up the rows' sizes as they were recorded. What counts for the API is the encoded body, so that is
measured here, and what does not fit after all goes back.
"""

from collections.abc import Sequence
from typing import NamedTuple

from worker.store.claim import Claimed
from worker.vonage.payload import LIMIT, encode, interaction


class Packed(NamedTuple):
    """The body, and the rows that it has no room for."""

    body: bytes
    left: Sequence[Claimed]


def pack(provider: str, rows: Sequence[Claimed], limit: int = LIMIT) -> Packed:
    """Encode as many rows, from the first, as fit into the limit in bytes; the first one always goes.

    A single interaction over the limit is refused at the door, so one here is for the API to judge.
    """
    take = len(rows)
    while True:
        wires = [interaction(r.action, r.requestid, r.externalid, r.route, r.request) for r in rows[:take]]
        body = encode(provider, wires)
        if len(body) <= limit or take == 1:
            return Packed(body, rows[take:])
        take = max(1, take * limit // len(body))
