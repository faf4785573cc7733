"""Why a job was refused: which field, what came, what is allowed.

What msgspec refuses is read once more, leniently, and held against the published schema; of what may be a customer's
words only the type or the length is told.
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import Any

import msgspec

from worker.domain.schema import BYTES, DEPTH, schema

NAME_SHOWN, PLACE_SHOWN = 40, 120
"""Characters of a name, and of a path of them, that are shown."""

DIGITS = 4300
"""Digits, and sign, of a whole number that msgspec reads."""

TOO_DEEP = f"is nested too deep; allowed are {DEPTH} levels"

_LISTS = (list, tuple, set, frozenset)
NESTS = (dict, *_LISTS)


class _Object:
    """An object of JSON text: its members in their order, those of one name too."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        self._members = members

    def items(self) -> list[tuple[str, Any]]:
        return self._members


_OBJECTS = (Mapping, _Object)

_CALLED = (
    (type(None), "null"),
    (bool, "a boolean"),  # before int, which it is in Python
    (int, "a number"),
    (float, "a decimal number"),
    (str, "a string"),
    (_LISTS, "a list"),
    (_OBJECTS, "an object"),
)
_WANTED: dict[str, tuple[Any, str]] = {
    "string": (str, "a string"),
    "boolean": (bool, "true or false"),
    "integer": (int, "a whole number"),
    "array": (_LISTS, "a list"),
    "object": (_OBJECTS, "an object"),
}

_rules = cache(schema)


def why(raw: Any, error: Exception) -> str:
    """Say what is wrong with a job that was refused."""
    if isinstance(error, RecursionError):  # all but extra has a shape that ends
        return f"extra: {TOO_DEEP}"
    try:
        values = _read(raw) if isinstance(raw, bytes) else raw
        found = _misfit(values, _rules()) or unkept(values)
    except UnicodeDecodeError as broken:
        return f"job: is not valid UTF-8: {broken.reason} at byte {broken.start:,}; it must be JSON text"
    except ValueError as broken:
        return f"job: is not valid JSON: {broken}"
    except RecursionError:
        return f"job: {TOO_DEEP}"
    return found or f"job: can't be read ({type(error).__name__}); it must be one JSON object"


def _read(raw: bytes) -> Any:
    """Read JSON text, and what is nearly JSON: msgspec may have stopped long before its end."""
    return json.loads(raw.decode(), object_pairs_hook=_Object, parse_int=_whole)


def _whole(digits: str) -> int:
    return int(digits) if len(digits) <= DIGITS else 1 << 4 * DIGITS  # which is as much too long


def _misfit(value: Any, rule: dict[str, Any], place: str = "") -> str | None:
    """Find the first value that the schema does not allow, and say so; no text of it but a choice's."""
    if "$ref" in rule:
        rule = _rules()["$defs"][rule["$ref"].rpartition("/")[2]]
    if "anyOf" in rule:  # something or null
        return None if value is None else _misfit(value, rule["anyOf"][0], place)
    if "enum" in rule:
        return _misfit_choice(value, rule, place)
    types, wanted = _WANTED[rule["type"]]
    if not isinstance(value, types) or (isinstance(value, bool) and types is int):
        return f"{place or 'job'}: is {_called(value)}; it must be {wanted}"
    if rule["type"] == "object":
        return _misfit_member(list(value.items()), rule, place)
    if rule["type"] == "array":
        found = (_misfit(inner, rule["items"], _inside(place, i)) for i, inner in enumerate(value))
        return next(filter(None, found), None)
    return _misfit_length(value, rule, place) if rule["type"] == "string" else None


def _misfit_choice(value: Any, rule: dict[str, Any], place: str) -> str | None:
    if isinstance(value, str) and value in rule["enum"]:
        return None
    came = f"'{cut(value)}'" if isinstance(value, str) else _called(value)
    choices = sorted(rule["enum"], key=lambda choice: choice != rule.get("default"))
    return f"{place}: is {came}; allowed are {', '.join(choices)}"


def _misfit_member(members: list[tuple[Any, Any]], rule: dict[str, Any], place: str) -> str | None:
    known = rule.get("properties")
    for name, value in members:
        if not isinstance(name, str):
            return f"{place or 'job'}: has {_called(name)} for a name; names must be strings"
        if known is None:
            continue
        if name not in known:
            near = get_close_matches(name[:NAME_SHOWN].lower(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}"
            return f"{_inside(place, name)}: is no field of {place or 'a job'}; {hint}"
        if found := _misfit(value, known[name], _inside(place, name)):
            return found
    names = {name for name, _ in members}
    missing = (name for name in rule.get("required", ()) if name not in names)
    return next(
        (f"{_inside(place, name)}: is missing; {place or 'a job'} needs it" for name in missing), None
    )


def _misfit_length(value: str, rule: dict[str, Any], place: str) -> str | None:
    bound = rule.get("maxLength", len(value))
    if len(value) < rule.get("minLength", 0):
        return f"{place}: is empty; allowed are 1 to {bound:,} {'bytes' if place in BYTES else 'characters'}"
    if len(value) > bound:
        return f"{place}: is {len(value):,} characters long; allowed are {bound:,}"
    return None


def unkept(value: Any, place: str = "") -> str | None:
    """Find the first value that can't be kept or written as JSON, though its type is right, and say so."""
    if isinstance(value, _OBJECTS):
        for key, inner in value.items():
            if found := _unkept_leaf(key, place or "job") or unkept(inner, _inside(place, str(key))):
                return found
        return None
    if isinstance(value, _LISTS):
        inside = (unkept(inner, _inside(place, index)) for index, inner in enumerate(value))
        return next(filter(None, inside), None)
    return _unkept_leaf(value, place or "job")


def _unkept_leaf(value: Any, place: str) -> str | None:
    if isinstance(value, str) and "\0" in value:
        return f"{place}: holds a NUL character, which the database can't keep"
    if isinstance(value, float) and not isfinite(value):
        return f"{place}: is not a finite number; JSON takes no other"
    try:
        msgspec.json.decode(msgspec.json.encode(value))
    except UnicodeError:
        return f"{place}: holds half a character (an unpaired surrogate), which is not valid Unicode"
    except (ValueError, OverflowError, msgspec.ValidationError):
        return f"{place}: is a number of too many digits; allowed are {DIGITS:,}"
    except (TypeError, msgspec.MsgspecError):
        return f"{place}: is {_called(value)}, which JSON does not have"
    return None


def _called(value: Any) -> str:
    known: Iterable[str] = (words for types, words in _CALLED if isinstance(value, types))
    return next(iter(known), f"a Python {type(value).__name__}")


def _inside(place: str, step: str | int) -> str:
    """Lead a path on by a name or an index, up to what is shown."""
    if not place:
        return cut(str(step)) or "''"
    inner = f"{place}[{step}]" if isinstance(step, int) else f"{place}.{cut(step)}"
    if len(inner) <= PLACE_SHOWN:
        return inner
    return place if place.endswith("…") else f"{place}…"


def cut(text: str) -> str:
    """Cut a name to what is shown of it."""
    return text if len(text) <= NAME_SHOWN else f"{text[: NAME_SHOWN - 1]}…"
