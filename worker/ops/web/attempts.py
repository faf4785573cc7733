"""How often somebody may try to log in: guessing takes longer and longer, for the right password too.

In memory, and bounded: a page that starts anew has forgotten all of it, which gives a guesser a handful more.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from threading import Lock

FIRST, LONGEST = 10.0, 900.0
"""Seconds to wait once too many tries have failed; doubled with each further one, up to the second."""

FORGOTTEN = 3600.0
"""Seconds after which earlier failures count no more."""

KEPT = 10_000
"""Names and addresses that are remembered; of more, those not seen for longest are forgotten."""

AMONG = 100
"""Of those that have not been seen for longest, so many are looked at for one that need not wait."""

PAIR, NAME, ADDRESS = 5, 50, 30
"""Failures that are free: of a name from one address, of a name from anywhere, of an address with any name."""


@dataclass(slots=True)
class Count:
    """Failures in a row, when the last was, and until when nothing is tried."""

    failures: int = 0
    last: float = 0.0
    until: float = 0.0


class Attempts:
    """Counts failures.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._counts: OrderedDict[tuple[str, ...], Count] = OrderedDict()

    def admit(self, name: str, address: str) -> float:
        """Say how many seconds there are to wait; with 0 the try counts as failed until it is said to have succeeded.

        Counted beforehand, so that a hundred tries at once are a hundred tries.
        """
        now = self._clock()
        with self._lock:
            keys = _keys(name, address)
            known = [self._counts[key] for key, _ in keys if key in self._counts]
            wait = max((count.until - now for count in known), default=0.0)
            if wait > 0:
                return wait  # and nothing new is kept of who has to wait, or they could crowd others out
            for count, free in [(self._count(key, now), free) for key, free in keys]:
                count.failures += 1
                count.last = now
                over = count.failures - free
                if over >= 0:
                    count.until = now + min(FIRST * 2 ** min(over, 20), LONGEST)
            return 0.0

    def succeeded(self, name: str, address: str) -> None:
        """Take the failure back that the try was counted as, and all of this name from this address."""
        with self._lock:
            (pair, _), *others = _keys(name, address)
            self._counts.pop(pair, None)
            # no more than that: who has a password of their own is not to guess others' without end
            self._take_back(key for key, _ in others)

    def withdrawn(self, name: str, address: str) -> None:
        """Take back a try that did not come to be: its password was not looked at."""
        with self._lock:
            self._take_back(key for key, _ in _keys(name, address))

    def _take_back(self, keys: Iterable[tuple[str, ...]]) -> None:
        for key in keys:
            if (count := self._counts.get(key)) and count.failures:
                count.failures -= 1
                count.until = 0.0

    def _count(self, key: tuple[str, ...], now: float) -> Count:
        count = self._counts.setdefault(key, Count(last=now))
        self._counts.move_to_end(key)
        while len(self._counts) > KEPT:
            oldest = islice(self._counts.items(), AMONG)
            self._counts.pop(next((key for key, one in oldest if one.until <= now), next(iter(self._counts))))
        if now - count.last > FORGOTTEN:
            count.failures = 0
        return count


def _keys(name: str, address: str) -> list[tuple[tuple[str, ...], int]]:
    name, address = name[:64], _network(address)
    return [(("pair", name, address), PAIR), (("name", name), NAME), (("address", address), ADDRESS)]


def _network(address: str) -> str:
    """Take all addresses for one that one subscriber has: in IPv6 a network of 2^64."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:64]
    found = getattr(found, "ipv4_mapped", None) or found
    return found.exploded[:19] if found.version == 6 else str(found)
