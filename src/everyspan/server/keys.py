"""Keys: what they look like, what is kept of them, and where a request carries one.

K1  A key is `esk_<id>_<secret>`, the secret being 256 random bits. Of it only the SHA-256 is kept:
    nobody guesses 256 bits, so a slow hash would protect nothing (decisions/061).
K2  The id finds the row and is no secret; the hash is compared in constant time.
K3  A key is for some accounts, and to read, to write or both.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from everyspan.errors import SettingsError

Scope = Literal["read", "write"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
EVERY_ACCOUNT = "*"
ACCOUNT_MAX = 256
NAME_MAX = 100
SESSION_COOKIE = "everyspan_session"
_KEY = re.compile(r"esk_([0-9a-f]{12})_[0-9a-f]{64}")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key.

    Attributes:
        accounts: Those it is for, the first where a request names none; `*` is every account.
        expires_ns, revoked_ns: Unix time; None is never.
        parent: The key that this one was made for as a browser's session, and ends with; None for
            a key that was made by hand.
    """

    id: str
    hash: bytes
    name: str
    accounts: tuple[str, ...]
    scopes: tuple[Scope, ...]
    created_ns: int
    expires_ns: int | None = None
    revoked_ns: int | None = None
    parent: str | None = None

    def is_active(self, now_ns: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_ns is None and (self.expires_ns is None or now_ns < self.expires_ns)

    def is_for(self, account: str) -> bool:
        """Whether it lets into an account."""
        return EVERY_ACCOUNT in self.accounts or account in self.accounts

    def matches(self, given: str) -> bool:
        """Whether `given` is this key (K2)."""
        return hmac.compare_digest(self.hash, _hash(given))


def make_key(
    *,
    name: str,
    accounts: Sequence[str],
    scopes: Sequence[Scope],
    now_ns: int,
    expires_ns: int | None = None,
    parent: str | None = None,
) -> tuple[Key, str]:
    """Return a new key: what is kept, and what is shown once.

    Raises:
        SettingsError: The name or an account is too long or empty, or there is no scope.
    """
    if not 1 <= len(name) <= NAME_MAX:
        raise SettingsError(f"the name of a key must have 1 to {NAME_MAX} characters")
    if not accounts or not all(1 <= len(account) <= ACCOUNT_MAX for account in accounts):
        raise SettingsError(f"an account must have 1 to {ACCOUNT_MAX} characters")
    if not scopes:
        raise SettingsError("a key must have a scope: read, write or both")
    key_id = secrets.token_hex(6)
    shown = f"esk_{key_id}_{secrets.token_hex(32)}"
    key = Key(
        id=key_id,
        hash=_hash(shown),
        name=name,
        accounts=tuple(dict.fromkeys(accounts)),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created_ns=now_ns,
        expires_ns=expires_ns,
        parent=parent,
    )
    return key, shown


def id_in(given: str) -> str | None:
    """Return the id that is part of a key, None where it is none of ours."""
    parts = _KEY.fullmatch(given)
    return None if parts is None else parts[1]


def keys_in(headers: Mapping[str, str], cookies: Mapping[str, str]) -> Iterator[str]:
    """Yield what a request carries where clients put a key (`sgp` §1, `agx` §1, `otlp` §1).

    Args:
        headers: By lower-case name.
    """
    for name in ("x-api-key", "x-agent-api-key"):
        if name in headers:
            yield headers[name]
    authorization = headers.get("authorization", "").strip()
    if authorization:
        scheme, _, value = authorization.partition(" ")
        if not value:
            yield scheme  # Bare, as logfire sends it.
        elif scheme.lower() == "bearer":
            yield value.strip()
        elif scheme.lower() == "basic":
            yield _password(value)
    if SESSION_COOKIE in cookies:
        yield cookies[SESSION_COOKIE]


def _password(basic: str) -> str:
    try:
        return b64decode(basic, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
