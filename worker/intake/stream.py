"""The stream's reading side: entries of ``vcc:jobs``, by the consumer group ``intake``.

Read, recorded, then acknowledged and deleted. Killed between two of these, the entries stay pending and come first
at the next read; those that were recorded are recognised by their requestids. Who reads is the one holder of the
stream's seat, so there is one consumer name, and what is pending under it is abandoned.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from redis import Redis
from redis.exceptions import ResponseError

from worker.client import FIELD, STREAM, TRACEPARENT
from worker.intake.record import Incoming

GROUP = "intake"
CONSUMER = "reader"
STRANDED = 60.0
"""Seconds after which entries that somebody else read from the group, and did not acknowledge, are taken over."""

# What is pending comes first, alone: it is older than all that is new. Page by page, for entries may be large.
_READ = """
local function take(from)
    local found, bytes, page = {}, 0, nil
    repeat
        local got = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 20, 'STREAMS', KEYS[1], from)
        page = got and got[1][2] or {}
        for _, entry in ipairs(page) do
            found[#found + 1] = entry
            for _, part in ipairs(entry[2] or {}) do bytes = bytes + #part end
            if from ~= '>' then from = entry[1] end
        end
    until #page < 20 or #found >= tonumber(ARGV[3]) or bytes >= tonumber(ARGV[4])
    return found
end
local found = take('0')
if #found == 0 then found = take('>') end
return found
"""


class Stream:
    """The door, seen from inside.

    Args:
        redis: a connection that speaks RESP 2 and does not decode.
    """

    name = "stream"

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._read = redis.register_script(_READ)
        self._last = b"0-0"
        self._adopted = 0.0

    def open(self) -> None:
        """Make the group if there is none, and take over what was read by whoever died."""
        self.adopt(0)

    def adopt(self, idle: int) -> None:
        """Make the entries ours that have been pending for so many milliseconds, whoever read them."""
        start = "0-0"
        while taken := self._grouped(partial(self._take_over, idle, start)):
            moment, _, number = taken[-1].decode().partition("-")
            start = f"{moment}-{int(number) + 1}"
        self._adopted = time.monotonic()

    def _take_over(self, idle: int, start: str) -> Any:
        return self._redis.xautoclaim(STREAM, GROUP, CONSUMER, idle, start, count=1000, justid=True)

    def read(self, limit: int, budget: int) -> list[Incoming]:
        """The next entries: so many, of so many bytes, or a page more."""
        if time.monotonic() - self._adopted > STRANDED:
            self.adopt(int(STRANDED * 1000))
        found = self._grouped(lambda: self._read(keys=[STREAM], args=[GROUP, CONSUMER, limit, budget]))
        if found:
            self._last = found[-1][0]
        gone = [entry for entry, fields in found if not fields]  # deleted by hand while they were pending
        if gone:
            self._redis.xack(STREAM, GROUP, *gone)
        if gone and len(gone) == len(found):
            return self.read(limit, budget)
        return [_incoming(entry.decode(), fields) for entry, fields in found if fields]

    def done(self, batch: Sequence[Incoming]) -> None:
        """Acknowledge and delete, in one step."""
        entries = [incoming.requestid for incoming in batch]
        with self._redis.pipeline() as pipeline:
            pipeline.xack(STREAM, GROUP, *entries)
            pipeline.xdel(STREAM, *entries)
            pipeline.execute()

    def wait(self, seconds: float) -> bool:
        """Wait for an entry after the last one read; it is not read by this, so it is nobody's yet."""
        found: Any = self._redis.xread({STREAM: self._last}, count=1, block=int(seconds * 1000))
        for _, entries in found or []:
            self._last = entries[-1][0]  # so that one which somebody else has taken wakes only once
        return bool(found)

    def _grouped(self, ask: Any) -> Any:
        """Ask something of the group, which a flushed Redis no longer has."""
        try:
            return ask()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        try:
            self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return ask()


def _incoming(entry: str, fields: Sequence[bytes]) -> Incoming:
    """One entry as a job; without the field it is kept whole, as far as text can say it."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    place = f"entry {entry}"
    if (job := named.get(FIELD.encode())) is not None:
        trace = named.get(TRACEPARENT.encode(), b"")
        return Incoming(job, entry, place, trace=trace.decode(errors="replace") if trace else "")
    text = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in named.items()}
    return Incoming(msgspec.json.encode(text), entry, place, f"{FIELD}: is no field of the stream's entry")
