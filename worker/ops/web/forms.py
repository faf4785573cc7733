"""Reading what a browser sends in an address or a form: strictly, so that nothing odd gets further than here."""

import re
from urllib.parse import unquote_to_bytes

from starlette.types import Receive, Scope

LARGEST = 2**20
"""Bytes of a form at most; a job that is mended here has a tenth of them."""

MOST = 2000
"""Fields of a form or an address at most."""

Fields = dict[str, list[str]]


class RefusedError(Exception):
    """A request that is not answered as it wants; it holds the HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def fields(raw: bytes) -> Fields:
    """Read ``a=1&b=2``, percent-encoded UTF-8: what an address has after its ``?``, and what a form is sent as.

    Raises:
        RefusedError: 400, it can't be read.
    """
    pairs = raw.split(b"&") if raw else []
    if len(pairs) > MOST:
        raise RefusedError(400, f"There are more than {MOST:,} fields.")
    found: Fields = {}
    for pair in pairs:
        name, _, value = pair.partition(b"=")
        found.setdefault(text(name.replace(b"+", b" ")), []).append(text(value.replace(b"+", b" ")))
    return found


def text(raw: bytes) -> str:
    """Decode percent-encoded UTF-8; a NUL, which Postgres does not take, is none.

    Raises:
        RefusedError: 400, it can't be read.
    """
    if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
        raise RefusedError(400, "A percent sign stands there without its two digits.")
    try:
        decoded = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RefusedError(400, "There are bytes that are no UTF-8.") from None
    if "\0" in decoded:
        raise RefusedError(400, "There is a NUL in it.")
    return decoded


async def body(scope: Scope, receive: Receive) -> bytes:
    """Read the body of a form, however it is cut into pieces.

    Raises:
        RefusedError: 413 or 415, or 400 where the browser went away.
    """
    headers = dict(scope["headers"])
    kind, _, parameter = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    charset = parameter.replace('"', "").strip()
    if kind.strip() != "application/x-www-form-urlencoded" or charset not in ("", "charset=utf-8"):
        raise RefusedError(415, "This takes forms: application/x-www-form-urlencoded, in UTF-8.")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15 or int(length) > LARGEST:
        raise RefusedError(413, f"A form has {LARGEST:,} bytes at most.")
    read = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "The form did not come whole.")
        read += message.get("body", b"")
        if len(read) > LARGEST:
            raise RefusedError(413, f"A form has {LARGEST:,} bytes at most.")
        if not message.get("more_body", False):
            return bytes(read)
