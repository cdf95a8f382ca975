"""Who may ask the registry: names with passwords from a file, or one token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

COST = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 << 20}
"""Of scrypt: about 50 ms."""

KNOWN_MAX = 1000
"""Passwords that were found right and are not computed again, by their hash."""

_STORED = re.compile(r"[0-9a-f]{32}\$[0-9a-f]{128}")


class Guard:
    """`users`: lines of a file as `line_for` makes them, by name; without users and token,
    everybody is let in.
    """

    def __init__(self, users: Mapping[str, str] | None = None, token: str | None = None) -> None:
        self.users = dict(users or {})
        self.token = token
        # Passwords of strangers are computed, too: so how long it takes tells nobody's name.
        self.nobody = line_for("", "")[1:] if self.closed else ""
        self._right: set[bytes] = set()

    @property
    def closed(self) -> bool:
        """Whether it asks at all."""
        return bool(self.users or self.token)

    def knows(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request may go on, as far as is known without work."""
        return not self.closed or hashlib.sha256(_said(scope)).digest() in self._right

    def lets_in(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request shows who it is from. Takes its time."""
        said = _said(scope)
        if not self._is_right(said):
            return False
        if len(self._right) >= KNOWN_MAX:
            self._right.clear()
        self._right.add(hashlib.sha256(said).digest())
        return True

    def _is_right(self, said: bytes) -> bool:
        kind, _, rest = said.partition(b" ")
        if kind.lower() == b"bearer":
            return self.token is not None and hmac.compare_digest(rest.strip(), self.token.encode())
        if kind.lower() != b"basic":
            return False
        try:
            name, _, password = base64.b64decode(rest).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        stored = self.users.get(name, self.nobody)
        salt, _, wanted = stored.partition("$")
        right = hmac.compare_digest(_hash(password, bytes.fromhex(salt)), wanted)
        return right and name in self.users


def _said(scope: Mapping[str, Any]) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"authorization"), b"")


def line_for(name: str, password: str) -> str:
    """A line of a users file: NAME:SALT$HASH, by scrypt."""
    salt = secrets.token_bytes(16)
    return f"{name}:{salt.hex()}${_hash(password, salt)}"


def _hash(password: str, salt: bytes) -> str:
    return hashlib.scrypt(password.encode(), salt=salt, **COST).hex()


def read_users(path: Path) -> dict[str, str]:
    """The users of a file. Raises ConfigurationError, with the line that is none."""
    users = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigurationError(f"--users {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().partition(":")
        if not name or not _STORED.fullmatch(stored):
            raise ConfigurationError(
                f"{path}, line {number}: no user",
                expected="NAME:SALT$HASH",
                hint="oncebox schema user NAME makes such a line",
            )
        users[name] = stored
    return users
