"""The keys of a running server, as the store has them.

R1  A key that is made or revoked, in whatever process, counts within KEPT_S.
R2  Keys are asked for where the server must (it is open to other machines), and as soon as one was
    ever made: that the last one expired or was revoked opens nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from everyspan.clock import SYSTEM_CLOCK, Clock
from everyspan.server.keys import Key, id_in, make_key
from everyspan.server.stores.base import Store

KEPT_S = 1.0
SESSION_S = 7 * 24 * 3600


class Keyring:
    """Finds keys.

    Args:
        must_ask: Keys are asked for even before one was made.
    """

    def __init__(self, store: Store, *, must_ask: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = store
        self._must_ask = must_ask
        self._clock = clock
        self._keys: Mapping[str, Key] = {}
        self._until_s = -1.0
        self._lock = asyncio.Lock()

    async def asks(self) -> bool:
        """Whether a request needs a key (R2)."""
        return self._must_ask or bool(await self._current())

    async def find(self, given: str) -> Key | None:
        """Return the key that was given, if it is one and active.

        Raises:
            StoreError: It cannot be told now.
        """
        key_id = id_in(given)
        if key_id is None:
            return None
        keys = await self._current()
        key = keys.get(key_id)
        if key is None or not key.matches(given) or not self._is_active(key.id, keys):
            return None
        return key

    async def still_lets(self, key: Key | None) -> bool:
        """Whether a caller who was let in would be now; None came without a key.

        Raises:
            StoreError: It cannot be told now.
        """
        if key is None:
            return not await self.asks()
        return self._is_active(key.id, await self._current())

    async def open_session(self, key: Key) -> tuple[Key, str]:
        """Return a new key that a browser may keep, which ends with `key` or before it."""
        now_ns = self._clock.time_ns()
        expires_ns = now_ns + SESSION_S * 10**9
        session, shown = make_key(
            name=key.name,
            accounts=key.accounts,
            scopes=key.scopes,
            now_ns=now_ns,
            expires_ns=min(expires_ns, key.expires_ns or expires_ns),
            parent=key.parent or key.id,
        )
        await self._store.add_key(session)
        self._until_s = -1.0
        return session, shown

    async def close_session(self, session: Key) -> None:
        """Make a session's key worthless, everywhere within KEPT_S and here at once."""
        await self._store.revoke_key(session.id)
        self._until_s = -1.0

    def _is_active(self, key_id: str, keys: Mapping[str, Key]) -> bool:
        now_ns = self._clock.time_ns()
        key = keys.get(key_id)
        parent = key if key is None or key.parent is None else keys.get(key.parent)
        return (
            key is not None
            and parent is not None
            and key.is_active(now_ns)
            and parent.is_active(now_ns)
        )

    async def _current(self) -> Mapping[str, Key]:
        if self._clock.monotonic() >= self._until_s:
            async with self._lock:
                if self._clock.monotonic() >= self._until_s:
                    # From before the reading: what is made meanwhile may be missing from it.
                    until_s = self._clock.monotonic() + KEPT_S
                    self._keys = {key.id: key for key in await self._store.keys()}
                    self._until_s = until_s
        return self._keys
