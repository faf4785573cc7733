"""Straight on: what a reader has just recorded is sent by a thread beside it, without a hop through a queue.

Where the valve asks for nothing and the thread is free, the rows are claimed in the very transaction that records
them: one commit before the call. In all other cases they are due like any other row.
"""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection

from worker.delivery.deliver import SLICE, Bench, Load, carry, claim_for, deliver
from worker.store import gate
from worker.store.database import told

log = logging.getLogger(__name__)


class Sender:
    """One thread that delivers; ``claim`` and ``offer`` are for one reader's thread.

    Args:
        bench: what a delivery works with.
        go_on: asked before each call.
    """

    def __init__(self, bench: Bench, go_on: Callable[[], bool]) -> None:
        self._bench = bench
        self._go_on = go_on
        self._changed = threading.Condition()
        self._load: Load | None = None
        self._busy = self._closed = False

    def claim(self, conn: Connection) -> Load | None:
        """Claim in the recording transaction what one call takes, if the thread is free and the valve open."""
        if self._busy or not self._go_on():
            return None
        passage = gate.enter_freely(conn, self._bench.settings.rate)
        if passage is None:
            return None
        since = time.monotonic()
        claimed = claim_for(self._bench.settings, conn, passage)
        return None if claimed is None else Load(passage, claimed, since)

    def offer(self, load: Load | None) -> None:
        """Let the thread send what was claimed, or what is due; if it has its hands full, ask somebody else."""
        with self._changed:
            free, self._busy = not self._busy, True
            if free:
                self._load = load
                self._changed.notify()
        if not free:
            self._bench.wake()

    def close(self) -> None:
        """End the thread when it has sent what it was offered; the reader must have ended before."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def run(self) -> None:
        """Deliver what is offered, until closed."""
        while self._offered():
            load, self._load = self._load, None
            try:
                self._deliver(load)
            except Exception as error:  # the rows come back by their lease; the thread has to go on
                log.error("delivery: %s; the next tick tries again", told(error))
            self._busy = False

    def _offered(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._busy or self._closed)
            return self._busy

    def _deliver(self, load: Load | None) -> None:
        end = time.monotonic() + SLICE
        if load is None or carry(self._bench, load):
            deliver(self._bench, go_on=lambda: time.monotonic() < end and self._go_on())
