"""The body of one Invoke call, and what it costs (*Create inbound interaction*).

A packer adds up bytes without encoding twice: ``envelope(provider)``, the ``size`` of every request and
one comma between each two are exactly ``len(encode(provider, requests))``.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from worker.domain.job import LIMIT, envelope, interaction, size

__all__ = ["LIMIT", "encode", "envelope", "interaction", "size"]


def encode(provider: str, requests: Sequence[dict[str, Any]]) -> bytes:
    """Encode one Invocation.

    Args:
        provider: the registered provider; empty: none is named on the wire.
        requests: Interaction objects as ``interaction`` makes them, dispatches and releases alike.
    """
    named = {"provider": provider} if provider else {}
    return msgspec.json.encode({**named, "requests": requests})
