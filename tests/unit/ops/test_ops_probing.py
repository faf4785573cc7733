"""A question to a server that may hang is asked by a thread."""

from typing import Any

import pytest

from worker.ops import probing
from worker.ops.probing import Probe


def no_thread(**_: Any) -> Any:
    """Be a thread that can't be started."""
    raise RuntimeError("can't start new thread")


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many threads the next one who asks has an answer all the same."""
    asked = Probe(lambda: 42)
    with monkeypatch.context() as patch:
        patch.setattr(probing, "Thread", no_thread)
        with pytest.raises(RuntimeError):
            asked.answer(60)
    assert asked.answer(60) == 42
