"""Straight on: what a reader has just recorded is sent by a thread beside it, without a hop through a queue.

Where the valve asks for nothing and a thread is free, the rows are claimed in the very transaction that records
them: one commit before the call. In all other cases they are due like any other row.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from worker.delivery.deliver import BUDGET, SLICE, After, Bench, Load, carry, deliver
from worker.logs import get_logger
from worker.store.claim import Claim, Terms
from worker.store.database import told
from worker.store.gate import Passage

log = get_logger(__name__)

THREADS = 4
"""As many releases, one after the other, go straight on while the calls of those before are under way."""

_END = object()


class Senders:
    """Threads that deliver; ``terms`` and ``offer`` are for one reader's thread.

    Args:
        bench: what a delivery works with.
        go_on: asked before each call.
        name: of the threads.
    """

    def __init__(self, bench: Bench, go_on: Callable[[], bool], name: str) -> None:
        self._bench = bench
        self._go_on = go_on
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._since = 0.0
        self._free = threading.Semaphore(THREADS)
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def terms(self) -> Terms | None:
        """On which terms rows may be claimed by their record; None while no thread is free, or a rate is to be kept."""
        settings = self._bench.settings
        if settings.rate is not None or not self._go_on() or not self._free.acquire(blocking=False):
            return None
        self._free.release()  # ``offer`` takes it for good: nobody else does, and the record may yet fail
        self._since = time.monotonic()
        return Terms(settings.max_requests, BUDGET, settings.lease)

    def offer(self, claim: Claim | None) -> None:
        """Let a thread send what was claimed, or what is due; if none is free, ask somebody else."""
        if self._free.acquire(blocking=False):
            self._queue.put(claim and Load(_passage(claim), claim, self._since, fresh=True))
        else:
            self._bench.wake()

    def close(self, seconds: float | None = None) -> None:
        """End the threads when they have sent what they were offered; the reader must have ended before."""
        for _ in self._threads:
            self._queue.put(_END)
        for thread in self._threads:
            thread.join(seconds)

    def _run(self) -> None:
        while (load := self._queue.get()) is not _END:
            try:
                self._deliver(load)
            except Exception as error:  # the rows come back by their lease; the thread has to go on
                whose = {"invocation": load.claim.call} if load else {}
                log.error("delivery failed", reason=told(error), **whose)
            finally:
                self._free.release()

    def _deliver(self, load: Load | None) -> None:
        """Send what was claimed, or what is due until a claim has asked the pool for help.

        A backlog is the pool's: here it would take the threads that the next release needs.
        """
        if load is not None and carry(self._bench, load) is not After.MORE:
            return
        asked = threading.Event()

        def wake() -> None:
            asked.set()
            self._bench.wake()

        end = time.monotonic() + SLICE
        bench = replace(self._bench, wake=wake)
        deliver(bench, go_on=lambda: not asked.is_set() and time.monotonic() < end and self._go_on())


def _passage(claim: Claim) -> Passage:
    return Passage(claim.epoch or 0, probe=False, wait=0.0, turn=0, ailing=False)
