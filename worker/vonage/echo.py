"""What an answer says again of what it was told: neither the token nor a customer's words get any further."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from worker.domain.outcome import Outcome
from worker.vonage.classify import ERROR_KEPT

_TELLING = 6
"""Letters and digits from which on a text, or the beginning of one, tells something."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[a-z])")

_OURS = frozenset(("action", "requestid", "externalid", "route", "routingdata"))
"""Members of an Interaction that hold no customers' words."""


def without_token(body: bytes, token: str) -> bytes:
    """Blot out the token in an answer, which is kept for operators to read: a gateway may repeat our headers."""
    return _shape(token).sub(b"***", body)


@lru_cache(maxsize=4)
def _shape(token: str) -> re.Pattern[bytes]:
    """What a token looks like in an answer that repeats it, be it as JSON."""
    marks = (c if c.isalnum() else rf"(?:\\?{re.escape(c)}|\\u00{ord(c):02x})" for c in token)
    return re.compile("".join(marks).encode(), re.IGNORECASE)


def without_words(outcome: Outcome, body: bytes) -> Outcome:
    """Name the status only where the API's message repeats what a customer wrote: everybody reads that line.

    Args:
        outcome: of the call.
        body: the Invocation that was sent.
    """
    answer = outcome.answer
    line = answer.error or ""
    error, cut = _bare(line), len(line) >= ERROR_KEPT - 1  # a blank at its end is not kept
    if not any(word in error or (cut and _ends_within(word, error)) for word in _words(body)):
        return outcome
    return replace(
        outcome, answer=replace(answer, error=f"HTTP {answer.status}, and the answer repeats the call")
    )


def _ends_within(word: str, error: str) -> bool:
    return any(error.endswith(word[:length]) for length in range(_TELLING, min(len(word), ERROR_KEPT)))


def _words(body: bytes) -> Iterator[str]:
    """All texts in an Invocation that may be customers' words, bare."""
    for request in msgspec.json.decode(body).get("requests", ()):
        known = {name: value for name, value in request.items() if name not in _OURS}
        yield from (word for word in map(_bare, _texts(known)) if len(word) >= _TELLING)


def _bare(text: str) -> str:
    """The letters and digits of a text, the same whether it is written plainly or as JSON."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "", text)
    return "".join(filter(str.isalnum, plain)).casefold()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
