"""Who may use the page: the entries of ``VCC_WEB_USERS``, as ``vcc user`` writes them.

An entry is ``name:role:scrypt:LOGN:R:P:SALT:HASH``, the last two in base64 for URLs without its padding. There is
no ``$`` in it, which Docker Compose would take for a variable, and nothing that a shell would touch.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from worker.settings import SettingsError

Role = Literal["viewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

NAME = re.compile(r"[\w.@+-]{1,64}")

SHORTEST = 10
"""Characters that a password has at least; longer ones are better than odd ones."""

COST = (15, 8, 1)
"""scrypt's log2(n), r and p for new passwords: 32 MB and a tenth of a second each time."""

LEAST, MOST = 14, 128 * 2**20
"""The smallest log2(n) that is taken, and the bytes of memory that checking a password may need."""

_SALT, _HASH = 16, 32


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may log in.

    Attributes:
        name: unique.
        role: what they may.
        cost: scrypt's log2(n), r and p.
        stamp: changes with the role and the password, and gives away neither.
    """

    name: str
    role: Role
    cost: tuple[int, int, int]
    salt: bytes
    hashed: bytes
    stamp: str

    def knows(self, password: str) -> bool:
        """Whether that is the password; takes as long either way."""
        return hmac.compare_digest(_hash(password, self.salt, self.cost), self.hashed)


class Users:
    """All who may log in; of nobody it is false.

    Args:
        text: as in ``VCC_WEB_USERS``.

    Raises:
        SettingsError: names the entry by its number, and says what is wrong.
    """

    def __init__(self, text: str) -> None:
        self._by_name: dict[str, User] = {}
        for number, entry in enumerate(filter(None, re.split(r"[\s,]+", text)), 1):
            try:
                user = _read(entry)
            except ValueError as error:
                raise SettingsError(
                    f"VCC_WEB_USERS: entry {number} {error}; `vcc user NAME --role operator` writes one"
                ) from None
            if user.name in self._by_name:
                raise SettingsError(f"VCC_WEB_USERS: entry {number} names somebody who is there already")
            self._by_name[user.name] = user

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def named(self, name: str) -> User | None:
        """Find a user."""
        return self._by_name.get(name)

    def verified(self, name: str, password: str) -> User | None:
        """Give the user whose name and password these are; an unknown name takes as long as a wrong password."""
        user = self._by_name.get(name)
        right = (user or next(iter(self._by_name.values()))).knows(password)
        return user if right else None


def entry(name: str, role: Role, password: str, cost: tuple[int, int, int] = COST) -> str:
    """Write the entry of a user.

    Raises:
        ValueError: the name can't be one, or the password is too short.
    """
    if not NAME.fullmatch(name):
        raise ValueError("a name is of letters, digits and . _ @ + -, 64 at most")
    if len(password) < SHORTEST:
        raise ValueError(f"a password has {SHORTEST} characters at least")
    salt = secrets.token_bytes(_SALT)
    hashed = _hash(password, salt, cost)
    return ":".join([name, role, "scrypt", *map(str, cost), _encoded(salt), _encoded(hashed)])


def _read(text: str) -> User:
    """Read an entry; an error says what is wrong without a word of it."""
    parts = text.split(":")
    if len(parts) != 8 or parts[2] != "scrypt":
        raise ValueError("is not of the form name:role:scrypt:LOGN:R:P:SALT:HASH")
    name, role, _, *cost, salt, hashed = parts
    if not NAME.fullmatch(name):
        raise ValueError("has a name that can't be one")
    if role not in ROLES:
        raise ValueError("has a role other than viewer and operator")
    return User(
        name,
        role,
        _cost(cost),
        _decoded(salt, _SALT),
        _decoded(hashed, _HASH),
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _cost(given: list[str]) -> tuple[int, int, int]:
    if not all(re.fullmatch("[0-9]{1,2}", one) for one in given):
        raise ValueError("has a cost that is no number")
    log_n, r, p = map(int, given)
    if not (log_n >= LEAST and r >= 1 and 1 <= p <= 4 and 128 * r << log_n <= MOST):
        raise ValueError("has a cost that is out of bounds")
    return log_n, r, p


def _hash(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    log_n, r, p = cost
    return hashlib.scrypt(
        password.encode(errors="surrogateescape"),
        salt=salt, n=1 << log_n, r=r, p=p, dklen=_HASH, maxmem=2 * MOST,
    )  # fmt: skip


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str, length: int) -> bytes:
    # the decoder alone would pass over what is no base64
    if not re.fullmatch("[A-Za-z0-9_-]*", text) or len(text) != len(_encoded(bytes(length))):
        raise ValueError("has a salt or a hash of another length or alphabet")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
