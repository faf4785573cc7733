"""Hostile messages on Celery's queue: none stops the worker, and each that can't be used is kept whole."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.stand import Stand
from tests.factories import Store
from tests.waiting import until

WORD = "Confidential subject"
HEADERS = {"lang": "py", "task": "vcc.dispatch"}
PROPERTIES = {
    "delivery_mode": 2,
    "delivery_info": {"exchange": "", "routing_key": "intake"},
    "priority": 0,
    "body_encoding": "base64",
    "delivery_tag": "a tag",
}


def message(**changed: Any) -> bytes:
    """Make a message as it lies on the queue, but for what is changed."""
    call = [[], {"externalid": WORD, "route": "R"}, {}]
    return json.dumps(
        {
            "body": packed(json.dumps(call).encode()),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {**HEADERS, "id": "an id"},
            "properties": PROPERTIES,
            **changed,
        }
    ).encode()


def packed(body: bytes) -> str:
    """Pack a body as it stands in a message."""
    return base64.b64encode(body).decode()


def headed(number: int, **headers: Any) -> bytes:
    """Make a message with other headers, a job of its own in it."""
    call = [[], {"externalid": f"odd {number}", "route": "R", "extra": {"said": WORD}}, {}]
    headers = {**HEADERS, "id": f"an id {number}", **headers}
    return message(headers=headers, body=packed(json.dumps(call).encode()))


NO_MESSAGES = [
    b"", b"{broken", b"\xff\xfe", b"null", b"7", b"[]", b'"%s"' % WORD.encode(), b"{}", b"[" * 10_000, b"9" * 10_000,
    json.dumps({"externalid": WORD, "route": "R"}).encode(),  # a job, as it would stand in the stream
    *(message(properties=given) for given in (None, 7, {}, *(
        {**PROPERTIES, name: value} for name, value in (
            ("body_encoding", "rot13"), ("delivery_info", None), ("delivery_info", {}), ("delivery_tag", None),
            ("delivery_tag", {"a": 1}), ("delivery_tag", [1]),
        )
    ))),
    *(message(headers=given) for given in (7, [7], "x")),
    message(body=7),
]  # fmt: skip
UNUSABLE = [
    *(message(body=given) for given in (None, {}, [], "%%%")),
    *(message(body=packed(given)) for given in (
        b"{broken", b"\xff", b"[]", b"{}", b"7", b"[1]", b"[[], {}]", b"[7, 7, 7]", b"[[], [], {}]", b"[[], {}, 7]",
        b"[{}, {}, {}]", b'{"task": "vcc.dispatch", "id": "x", "args": 7, "kwargs": {}}', b"[" * 10_000,
    )),
    *(message(**{"content-type": given}) for given in (7, None, "application/x-python-serialize", "x/y")),
    message(**{"content-encoding": 7}),
    *(headed(0, task=given) for given in (7, None, {}, "vcc.nothing", WORD)),
    *(headed(0, **given) for given in (
        {"id": {}}, {"eta": WORD}, {"eta": 7}, {"expires": WORD}, {"expires": {}},
        {"stamped_headers": 7}, {"compression": "zlib"}, {"compression": "nonsense"},
    )),
]  # fmt: skip
ODD_BUT_USABLE = [
    {"id": None}, {"id": 7}, {"id": "x" * 100_000}, {"timelimit": ["a", "b"]}, {"retries": "x"}, {"stamps": 7},
    {"chord": 7}, {"group": {}}, {"errbacks": 7}, {"root_id": {}},
    {"origin": 7}, {"argsrepr": 7}, {"kwargsrepr": WORD}, {"shadow": {"a": 1}}, {"shadow": WORD},
    {"lang": 7}, {"reply_to": 7}, {"timelimit": 7}, {"timelimit": [0.001, 0.001]},
]  # fmt: skip


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_whatever_lies_on_the_queue(stand: Stand, pool: str) -> None:
    """What is no message, or can't be used, is kept to the byte; what is merely odd is done; the worker lives."""
    worker = stand.worker("--pool", pool, "--concurrency", "2", "--loglevel", "DEBUG")
    with redis.Redis.from_url(stand.redis_url) as server:
        for text in (*NO_MESSAGES, *UNUSABLE):
            server.lpush("intake", text)
        for number, given in enumerate(ODD_BUT_USABLE):
            server.lpush("intake", headed(number, **given))
        kept = len(NO_MESSAGES) + len(UNUSABLE)
        stand.until(lambda s: s["rejections"] == kept and s["states"]["dispatched"] == len(ODD_BUT_USABLE))
        until(lambda: not server.llen("intake") and not server.hlen("unacked"))
    assert worker.poll() is None
    store = Store(stand.engine())
    assert {bytes(row.job) for row in store.all("select job from rejections")} >= set(NO_MESSAGES)
    store.engine.dispose()
    assert "Traceback" not in stand.logs()
    assert '"exception"' not in stand.logs()
    assert WORD not in stand.logs()


class Bomb:
    """Whoever loads it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_a_pickle_is_never_loaded(stand: Stand, tmp_path: Path) -> None:
    """A pickled message runs nothing that is in it, and is kept to the byte, for whoever asks where it came from."""
    stand.worker("--pool", "threads")
    loaded = tmp_path / "loaded"
    bomb = pickle.dumps(Bomb(loaded))
    names = ("application/x-python-serialize", "application/x-yaml", "application/data", "application/json")
    with redis.Redis.from_url(stand.redis_url) as server:
        for name in names:
            for encoding in ("binary", "utf-8"):
                server.lpush(
                    "intake",
                    message(body=packed(bomb), **{"content-type": name, "content-encoding": encoding}),
                )
        server.lpush("intake", bomb)
    stand.until(lambda s: s["rejections"] == 2 * len(names) + 1)
    store = Store(stand.engine())
    assert {bytes(row.job) for row in store.all("select job from rejections")} == {bomb}
    store.engine.dispose()
    assert not loaded.exists()
    pickle.loads(bomb)
    assert loaded.exists()


def test_what_is_no_message_waits_for_the_database(stand: Stand) -> None:
    """While nothing can be kept, what is no message goes back to its queue, and is kept afterwards."""
    store = Store(stand.engine())
    store.run("alter table rejections rename to elsewhere")
    worker = stand.worker("--pool", "threads")
    with redis.Redis.from_url(stand.redis_url) as server:
        server.lpush("intake", b"{broken")
        until(lambda: "message returned" in stand.logs(), seconds=30)
        store.run("alter table elsewhere rename to rejections")
    stand.until(lambda s: s["rejections"] == 1)
    store.engine.dispose()
    assert worker.poll() is None
