"""How long to wait before trying again: pure."""

BASE = 1.0
CAP = 60.0


def backoff(attempt: int, chance: float, *, base: float = BASE, cap: float = CAP) -> float:
    """Seconds before the next try: doubled with every attempt, capped, jittered by up to a quarter.

    Args:
        attempt: how many tries there were, from 1.
        chance: the random source's answer, 0 to 1.
        base: seconds after the first try.
        cap: the longest wait before jitter.

    >>> backoff(1, 0.5), backoff(3, 0.5), backoff(1000, 0.5)
    (1.0, 4.0, 60.0)
    >>> backoff(1, 0.0), backoff(1, 1.0)
    (0.75, 1.25)
    """
    # 2.0 ** 1024 overflows, and 32 doublings of any base are past any cap
    wait = min(cap, base * 2.0 ** min(max(attempt, 1) - 1, 32))
    return wait * (0.75 + chance / 2)
