"""What Celery would show of a message, without what it holds.

By default a task's arguments appear in Flower, in ``celery inspect`` and, for messages that can't be used, in the
log; those are then dropped. Here nobody sees them, and messages that can't be used are kept in ``rejections``.
"""

from collections.abc import Callable
from random import uniform
from typing import Any

import celery
from celery.exceptions import InvalidTaskError, Reject
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest
from sqlalchemy.exc import SQLAlchemyError

from worker.app import engine, stopping
from worker.domain.job import printable
from worker.intake.record import raw
from worker.logs import get_logger
from worker.settings import SettingsError
from worker.store.database import told
from worker.store.record import CrowdedError, Rejection, reject

log = get_logger(__name__)

HIDDEN = "(hidden)"

EVENTS = 0.2
"""Seconds for which task events are collected, to be sent together: each by itself, they cost more than the task."""

ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What Celery and kombu raise of a message that has not the shape they expect: it would end the worker."""


NOT_THE_PRODUCERS = ("shadow", "argsrepr", "kwargsrepr", "timelimit")
"""Headers by which a producer would put words of its own into logs and Flower, or end the worker's children."""


class UnusableError(InvalidTaskError):
    """A message can't be used; the text is ours, and quotes nothing of it."""


class Request(CeleryRequest):
    """A request that hides its arguments and refuses a body that can't be read."""

    def __init__(self, message: Any, **options: Any) -> None:
        try:
            body = message.payload  # otherwise read in the pool, where the failure would be acknowledged
        except Exception as error:
            raise UnusableError(f"its body can't be read: {type(error).__name__}") from None
        if not _is_call(body):
            raise UnusableError("its body holds no arguments")
        for name in NOT_THE_PRODUCERS:
            message.headers.pop(name, None)
        super().__init__(message, **options)

    @property
    def argsrepr(self) -> str:
        """Stand for the arguments in events and logs."""
        return HIDDEN

    @property
    def kwargsrepr(self) -> str:
        """Stand for the keyword arguments in events and logs."""
        return HIDDEN

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request to ``celery inspect`` and Flower."""
        return {**super().info(safe=safe), "args": HIDDEN, "kwargs": HIDDEN}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()}>"


def _is_call(body: Any) -> bool:
    """Whether a message's body has the shape of a call, in either of Celery's protocols."""
    if isinstance(body, dict):
        body = (body.get("args", []), body.get("kwargs", {}), {})
    return len(body) == 3 and all(map(isinstance, body, (list, dict, dict | None)))


class Task(celery.Task):
    """The base of all tasks."""

    Request = "worker.discreet:Request"

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send a message whose headers, too, hide the arguments."""
        shown = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
        return super().apply_async(args, kwargs, *rest, **{**shown, **options})


class Door(Task):
    """The base of the tasks that take jobs in: whatever happens, their message is not acknowledged for nothing."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run; while nothing can be recorded the message goes back, after a moment, else a loop would heat up."""
        mid = message_id(self)
        try:
            return super().__call__(*args, **kwargs)
        except (SQLAlchemyError, CrowdedError, SettingsError) as error:
            reason = str(error) if isinstance(error, SettingsError) else told(error)
            log.warning("message returned", message=mid, reason=reason, **_named(kwargs))
        except Exception as error:
            if _kept({"args": args, "kwargs": kwargs}, f"message {mid}", error):
                return None
        stopping.wait(uniform(1, 5))  # noqa: S311 -- so that not all come back at once
        raise Reject("could not be recorded", requeue=True)


def _kept(job: dict[str, Any], place: str, error: Exception) -> bool:
    """Keep what no rule foresaw, whole; False if not even that can be done."""
    reason = f"job: can't be recorded: {type(error).__name__}"
    log.error("job rejected", reason=reason, place=place, **_named(job["kwargs"]))
    try:
        reject(engine(), "celery", [Rejection(raw(job), reason, place)])
    except (SQLAlchemyError, SettingsError):
        return False
    return True


def _named(fields: dict[str, Any]) -> dict[str, str]:
    """What a job that could not be read or recorded calls itself, as far as that can be printed."""
    given = {name: fields.get(name) for name in ("externalid", "requestid")}
    return {name: printable(value[:200]) for name, value in given.items() if isinstance(value, str)}


def message_id(task: celery.Task) -> str:
    """The message's own id, whatever its producer took for one."""
    return printable(str(task.request.id))[:200]


class Blueprint(CeleryConsumer.Blueprint):
    """The consumer's parts, and what they tell ``celery inspect stats`` and Flower of the broker."""

    def info(self, parent: Any) -> Any:
        """Leave out its options: behind sentinels they hold a password, and what no answer can carry."""
        found = super().info(parent)
        if isinstance(found.get("broker"), dict):
            found["broker"].pop("transport_options", None)
        return found


class Consumer(CeleryConsumer):
    """A consumer that keeps the messages which Celery would log in full and drop."""

    Blueprint = Blueprint

    def register_with_event_loop(self, hub: Any) -> None:
        """Send task events every now and then."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(EVENTS, self._flush_events)

    def on_send_event_buffered(self) -> None:
        """Let the event wait for others."""

    def shutdown(self) -> None:
        """Send the last events before the connection goes."""
        self._flush_events()
        super().shutdown()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep what is no task message."""
        self._keep(message, "message: is no Celery task message")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Keep a message for a task that does not exist."""
        self._keep(message, "task: there is no task of this name")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Keep a message that breaks Celery's protocol."""
        self._keep(message, f"message: {exc}" if isinstance(exc, UnusableError) else "message: is not usable")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Keep a message whose body can't be read."""
        self._keep(message, f"message: its body can't be read: {type(exc).__name__}")

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Handle messages as Celery does, and keep those that it would fall over."""
        handle = super().create_task_handler(*args, **options)

        def handle_or_keep(message: Any) -> Any:
            try:
                return handle(message)
            except ODD as error:
                if message.acknowledged:
                    raise
                return self._keep(message, f"message: is not usable ({type(error).__name__})")

        return handle_or_keep

    def _keep(self, message: Any, reason: str) -> None:
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
        message.ack() if kept_whole(body, reason) else message.requeue()


def kept_whole(body: bytes, reason: str) -> bool:
    """Keep what can't be used; False, after a moment, if it has to go back to its queue."""
    try:
        # this is the thread that reads the queues: better the message comes again than everybody waits
        reject(engine(), "celery", [Rejection(body, reason)], seconds=2)
    except (SQLAlchemyError, SettingsError) as error:
        log.warning("message returned", reason=type(error).__name__)
        stopping.wait(1)
        return False
    log.error("message rejected", reason=reason)
    return True
