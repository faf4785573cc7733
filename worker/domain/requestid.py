"""Requestids of our own: random, but in the order of time (UUID version 7, RFC 9562).

What is made together then stands together in the indexes, however large they grow: each of a million random ones
would change another page of theirs.
"""

import os
import time
from uuid import UUID

_VERSION_AND_VARIANT = 7 << 76 | 2 << 62
_RANDOM = ~(0xF << 76 | 3 << 62) & ((1 << 80) - 1)


def new_requestid() -> str:
    """Make one that nobody else has: milliseconds since 1970 in 48 bits, then 74 bits of chance."""
    chance = int.from_bytes(os.urandom(10)) & _RANDOM
    return str(UUID(int=time.time_ns() // 1_000_000 << 80 | _VERSION_AND_VARIANT | chance))
