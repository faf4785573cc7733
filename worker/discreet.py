"""What Celery would show of a message, without what it holds.

By default a task's arguments appear in Flower, in ``celery inspect`` and, for messages that can't be used, in the
log; those are then dropped. Here nobody sees them, and messages that can't be used are kept in ``rejections``.
"""

import logging
from typing import Any

import celery
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest

from worker.store.record import Rejection, reject

log = logging.getLogger(__name__)

HIDDEN = "(hidden)"


class Request(CeleryRequest):
    """A request that hides its arguments and refuses a body that can't be read."""

    def __init__(self, message: Any, **options: Any) -> None:
        try:
            message.payload  # noqa: B018 - otherwise read in the pool, where the failure would be acknowledged
        except Exception as error:
            raise InvalidTaskError(f"its body can't be read: {type(error).__name__}") from None
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


class Task(celery.Task):
    """The base of all tasks."""

    Request = "worker.discreet:Request"

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send a message whose headers, too, hide the arguments."""
        shown = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
        return super().apply_async(args, kwargs, *rest, **{**shown, **options})


class Consumer(CeleryConsumer):
    """A consumer that keeps the messages which Celery would log in full and drop."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep what is no task message."""
        self._keep(message, "message: is no Celery task message")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Keep a message for a task that does not exist."""
        self._keep(message, "task: there is no task of this name")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """Keep a message that breaks Celery's protocol."""
        self._keep(
            message, f"message: {exc}" if isinstance(exc, InvalidTaskError) else "message: is not usable"
        )

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Keep a message whose body can't be read."""
        self._keep(message, f"message: its body can't be read: {type(exc).__name__}")

    def _keep(self, message: Any, reason: str) -> None:
        from worker.app import engine  # noqa: PLC0415 - the app names this class in its settings

        body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="replace")
        try:
            reject(engine(), "celery", [Rejection(body, reason)])
        except Exception:
            log.exception("a message that can't be used could not be kept either; it goes back to its queue")
            message.requeue()
        else:
            log.error("rejected a message: %s", reason, extra={"action": "reject"})
            message.ack()
