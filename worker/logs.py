"""Logs: stable event names, and one line each, ours and the libraries' alike; JSON, or text on a terminal.

    log = get_logger(__name__)
    log.info("call made", invocation=17, outcome="accepted")

Ours go through Python's own logging, so that levels, filters and files are where everybody looks for them. Nothing
that is logged may quote a job or an answer, and an exception is told by its kind and place only: its text may.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict

from worker.traceparent import traceparent

EVENTS = {
    "call made": "A call of the API has its outcome; `error` level where a person is needed.",
    "call not made": "Rows that were claimed go back: the valve closed, or the worker stops.",
    "census failed": "The page's and the metrics' counts are not renewed, since the database can't be asked.",
    "claim failed": "Jobs could not be claimed by what recorded them; they are recorded, and sent in their turn.",
    "delivery failed": "A thread that sends met something unexpected; its rows come back by their lease.",
    "interaction carried": "One interaction of a call, and what came of the call.",
    "job rejected": "One job went whole into `rejections`, with the reason there.",
    "jobs rejected": "Of a batch or a message, so many jobs went into `rejections`.",
    "left behind": "Something hung when the worker had to end; rows that it had claimed come back by their lease.",
    "login": "Somebody tried to log in to the page: `outcome` is `right`, `wrong`, or `has to wait`.",
    "message rejected": "A message that is no call of a task went whole into `rejections`.",
    "message returned": "A message goes back to its queue, since nothing can be recorded.",
    "page failed": "The database did not give what a page asked for; `error` is its kind and SQLSTATE.",
    "pruned": "Rows older than `VCC_KEEP_FOR` were deleted.",
    "reader failed": "The reader of a door fell, and tries again.",
    "request": "The page, or a metric, was asked for.",
    "swept": "Time has overtaken rows: so many of each kind.",
    "traces off": "Tracing is asked for, but its packages are not installed.",
    "traces on": "Spans go to the collector that the environment names.",
    "wake failed": "Nobody could be woken by Redis; the next tick does it.",
    "wake key kept": "Redis could not be reached; the key expires by itself.",
    "work failed": "A task fell; the next tick does its work.",
}
"""Each event of ours, and what it means. Their names are stable; docs/logs.md has them as a table."""

Format = Literal["auto", "json", "text"]

QUIET = ("httpx", "httpcore", "sqlalchemy.engine", "alembic")
"""Libraries that would log addresses and statements."""

WHOLE = ("celery.pool", "celery.concurrency", "kombu", "amqp")
"""Libraries that would log whole messages at DEBUG."""

_common: dict[str, Any] = {}


def get_logger(name: str) -> Any:
    """Give a logger that takes an event of ``EVENTS`` and keys."""
    return structlog.get_logger(
        name
    ).bind()  # as it is configured below; unbound, each line would look that up


def configure(level: int | str, logfile: str | None = None, format: Format = "auto") -> None:  # noqa: A002 - as in VCC_LOG_FORMAT
    """Log to stderr, or to a file, from ``level`` on.

    Args:
        level: of Python's.
        logfile: is added to.
        format: ``json``: an object a line; ``text``; ``auto``: text where it goes to a terminal.
    """
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler()
    text = format == "text" or (format == "auto" and not logfile and sys.stderr.isatty())
    handler.setFormatter(Text() if text else Json())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in WHOLE:
        logging.getLogger(name).setLevel(max(logging.getLogger().level, logging.INFO))


def common(**keys: Any) -> None:
    """Add keys to each line of this process, such as the worker's name."""
    _common.update(keys)


class Json(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Encode; what is no JSON by itself goes as text."""
        return msgspec.json.encode(line(record), enc_hook=str).decode()


class Text(logging.Formatter):
    """A line to read; what a terminal would obey is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Put time, level and event first, then keys and values, then where an exception comes from."""
        told = line(record)
        del told["process"]
        when, level, name, event, trace = (
            told.pop(key, "") for key in ("timestamp", "level", "logger", "event", "exception")
        )
        keys = " ".join(f"{key}={_plain(value)}" for key, value in told.items())
        return f"{when[11:23]} {level:7} {name}: {_printable(event)} {keys}".rstrip() + (
            trace and f"\n{trace}"
        )


def line(record: logging.LogRecord) -> dict[str, Any]:
    """Everything that is told of a record."""
    milliseconds = int(record.created * 1000)
    told = {
        "timestamp": f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": _event(record),
        **_common,
        "process": record.process,
        **getattr(record, "keys", {}),
        **_trace(),
    }
    if record.exc_info and record.exc_info[0]:
        told["exception"] = "".join(_whence(record.exc_info))
    return told


_last = (0, "")


def _second(second: int) -> str:
    """Write a moment, seldom anew: many lines share a second."""
    global _last  # noqa: PLW0603 - a pair is replaced as a whole, whatever other threads do
    known, text = _last
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last = (second, text)
    return text


def _event(record: logging.LogRecord) -> str:
    """The event, or a library's message; Celery would put an exception's text and traceback into its own."""
    if isinstance(record.args, dict) and "traceback" in record.args:
        record.args = {**record.args, "exc": _kind(record), "traceback": ""}
    return record.getMessage().rstrip()


def _kind(record: logging.LogRecord) -> str:
    kind = record.exc_info[0] if record.exc_info else None
    return kind.__name__ if kind else "an exception"


def _whence(exc_info: Any) -> Iterator[str]:
    """An exception's kind and the lines of code that it came through, and those of what caused it: never its text."""
    chained: BaseException | None = exc_info[1]
    while chained is not None:
        yield from traceback.format_tb(chained.__traceback__)
        yield f"{type(chained).__name__}\n"
        chained = chained.__cause__ or (None if chained.__suppress_context__ else chained.__context__)


def _trace() -> dict[str, str]:
    """The trace that the line belongs to, where there are any."""
    named = traceparent()
    return {"trace_id": named.split("-")[1]} if named else {}


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def _to_logging(_logger: Any, _method: str, told: EventDict) -> MutableMapping[str, Any]:
    """Hand over to Python's logging: the event is the message, the rest its keys."""
    return {"msg": told.pop("event"), "extra": {"keys": told}}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, _to_logging],
    logger_factory=logging.getLogger,  # structlog's own would look for the caller, whom nobody asks for
    wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
)
if (
    logging.lastResort is not None
):  # where nothing is configured, such as in a command, a warning says as much
    logging.lastResort.setFormatter(Text())
