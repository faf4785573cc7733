"""A synthetic backlog of emails for demonstrations: an mbox of any size, the same for the same seed."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

from worker.intake.sources.message import BLOCK_LIMIT

_TOPICS = (
    "Invoice",
    "Delivery",
    "Password",
    "Cancellation",
    "Refund",
    "Contract",
    "Meter reading",
    "Appointment",
)
_ASKS = (
    "is missing",
    "is late",
    "needs a change",
    "was sent twice",
    "can't be opened",
    "has a wrong address",
)
_LINES = (
    "Could you please have a look?",
    "From my side everything is set up as you described.",
    "This is the second time that I write about it.",
    "Please call back in the afternoon.",
    "Thank you in advance.",
)
_SEPARATOR = "From MAILER-DAEMON Mon Jan  1 00:00:00 2024\n"
_LONG_ID = 1_100  # bytes; an externalid may have 1,024

_GOOD, _DUPLICATE, _BROKEN = range(3)


def write_backlog(
    path: str | os.PathLike[str], count: int, *, duplicates: int = 0, broken: int = 0, seed: int = 0
) -> dict[str, int]:
    """Write an mbox of made-up emails, message by message.

    Args:
        path: the file to write; overwritten where it exists.
        count: how many messages in all.
        duplicates: how many of them have the Message-ID of an earlier one.
        broken: how many of them can't be imported: one by headers over the limit, the others by an
            overlong Message-ID.
        seed: the same seed makes the same file.

    Returns:
        The counts ``read``, ``distinct``, ``duplicates`` and ``broken``.

    Raises:
        ValueError: no message would be left to be duplicated, or more are asked for than there are.
    """
    distinct = count - duplicates - broken
    if min(distinct, duplicates, broken) < 0 or (duplicates and not distinct):
        raise ValueError(f"{count} messages can't have {duplicates} duplicates and {broken} broken ones")
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for text in _messages(_plan(distinct, duplicates, broken, seed), seed):
            file.write(f"{_SEPARATOR}{text}\n")
    return {"read": count, "distinct": distinct, "duplicates": duplicates, "broken": broken}


def _plan(distinct: int, duplicates: int, broken: int, seed: int) -> bytearray:
    """Return the kind of every message, mixed; a duplicate never comes before what it repeats."""
    kinds = bytearray([_GOOD] * max(distinct - 1, 0) + [_DUPLICATE] * duplicates + [_BROKEN] * broken)
    random.Random(seed).shuffle(kinds)  # noqa: S311 - no secret
    return bytearray([_GOOD] * min(distinct, 1)) + kinds


def _messages(plan: bytearray, seed: int) -> Iterator[str]:
    good = broken = 0
    for place, kind in enumerate(plan):
        if kind == _GOOD:
            yield _message(f"{good}.{seed}", seed, good)
            good += 1
        elif kind == _DUPLICATE:
            which = random.Random(f"{seed}/{place}").randrange(good)  # noqa: S311 - no secret
            yield _message(f"{which}.{seed}", seed, which)
        else:
            broken += 1
            yield (
                _overlong_headers(seed)
                if broken == 1
                else _message(f"{broken}.{'x' * _LONG_ID}", seed, place)
            )


def _message(number: str, seed: int, which: int) -> str:
    dice = random.Random(f"{seed}:{which}")  # noqa: S311 - no secret
    customer = dice.randrange(10_000)
    lines = [_quoted(line) for line in dice.choices(_LINES, k=dice.randint(2, 8))]
    return (
        f"From: Customer {customer} <customer{customer}@example.com>\n"
        "To: service@example.test\n"
        f"Subject: {dice.choice(_TOPICS)} {dice.choice(_ASKS)}\n"
        f"Date: Mon, 01 Jan 2024 {which % 24:02}:{dice.randrange(60):02}:00 +0000\n"
        f"Message-ID: <{number}@backlog.example.com>\n"
        "\n" + "\n".join(lines) + "\n"
    )


def _quoted(line: str) -> str:
    return f">{line}" if line.startswith("From ") else line


def _overlong_headers(seed: int) -> str:
    header = f"X-Trace: {'x' * 60}\n"
    return (
        header * (BLOCK_LIMIT // len(header) + 1) + f"Message-ID: <overlong.{seed}@backlog.example.com>\n\n\n"
    )
