"""The jobs that every contender has to do, and small things that their processes share: nothing heavy is imported."""

import sys
import time
from collections.abc import Callable
from typing import Any

ROUTE = "Route Interaction NR"
LINKED = [{"type": "clid", "value": "someone@example.test"}, {"type": "mediatype", "value": "Email"}]
"""What the agent sees of each interaction: little, so that many fit into a call."""

Job = dict[str, Any]


def jobs(count: int, prefix: str = "e", **fields: Any) -> list[Job]:
    """Make so many different dispatches, all of one size."""
    return [
        {"externalid": f"{prefix}{i:08}", "route": ROUTE, "linkeddata": LINKED, **fields}
        for i in range(count)
    ]


def until(condition: Callable[[], bool], *, seconds: float = 120, every: float = 0.01) -> None:
    """Wait for a condition, looking so often; give up after so long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"did not come about within {seconds:.0f} seconds")
        time.sleep(every)


def say(text: str) -> None:
    """Tell what goes on, beside the figures."""
    print(f"  {text}", file=sys.stderr, flush=True)
