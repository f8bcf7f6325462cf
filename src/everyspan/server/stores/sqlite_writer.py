"""The thread that alone writes: group commit, and work that follows what was committed.

    submit -> waiting (bounded) -> BEGIN, followers, many calls, COMMIT -> futures

W1  A call is answered after its COMMIT, with `synchronous=FULL`: the log is on the disk (P8).
W2  Calls that wait together share one transaction (group commit); each has its own savepoint, so
    a refused or failing call costs only itself (P5).
W4  At most `waiting_bytes_max` and `WAITING_CALLS_MAX` wait; beyond, StoreBusyError.
W5  Followers work in slices of FOLLOW_S, soon after each commit, in the transaction of the calls
    that wait by then: no sync of their own under load. One that fails costs no call, and tries
    again later.
W6  Each transaction that writes has a number, greater than all before it, in whatever process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import apsw

from everyspan.clock import Clock
from everyspan.errors import StoreBusyError, StoreError
from everyspan.server.stores.sqlite_calls import Call, answer, join, to_store_error

WAITING_CALLS_MAX = 10_000
GROUP_BYTES_MAX = 16 * 1024 * 1024
"""A transaction takes no further call beyond this; chosen, not measured."""
FOLLOW_S = 0.01
"""What a follower may take at once; chosen, not measured."""
FOLLOW_AFTER_S = 0.05
"""When followers look at a commit: many small ones are looked at together."""
FAILED_FOLLOWER_WAIT_S = 5.0

_log = logging.getLogger("everyspan.server.store")
_T = TypeVar("_T")


class Transaction:
    """One write transaction, on the writer's thread.

    `now_ns` is its time; `connection` is for statements, never for BEGIN or COMMIT.
    """

    def __init__(self, connection: apsw.Connection, clock: Clock) -> None:
        connection.execute("BEGIN IMMEDIATE")
        self.connection = connection
        self.now_ns = clock.time_ns()
        # Read now, and not kept from the last time: another process may have written since.
        self._stored = dict(connection.execute("SELECT name, value FROM numbers"))
        self._change: int = self._stored["change"]
        self._seq: int = self._stored["seq"]
        self._deleted: int = self._stored["deleted"]

    @property
    def change(self) -> int:
        """The transaction's number (W6), which rows that it writes are stamped with."""
        if self._change == self._stored["change"]:
            self._change += 1
        return self._change

    @property
    def seq(self) -> int:
        """The last span's number."""
        return self._seq

    def new_seq(self) -> int:
        """Return the next span's number."""
        self._seq += 1
        return self._seq

    def count_deleted(self, spans: int) -> None:
        """Note that so many spans were deleted."""
        self._deleted += spans

    def attempt(self, work: Callable[[Transaction], _T]) -> _T:
        """Return what `work` returns; if it raises, nothing of what it did is left."""
        connection, seq, deleted = self.connection, self._seq, self._deleted
        connection.execute("SAVEPOINT attempt")
        try:
            result = work(self)
        except BaseException:
            # Not so where SQLite gave the whole transaction up: a full disk, a read error.
            if connection.in_transaction:
                connection.execute("ROLLBACK TO attempt")
                connection.execute("RELEASE attempt")
            self._seq, self._deleted = seq, deleted
            raise
        connection.execute("RELEASE attempt")
        return result

    def commit(self) -> None:
        """Make it last (W1)."""
        numbers = {"change": self._change, "seq": self._seq, "deleted": self._deleted}
        for name, value in numbers.items():
            if value != self._stored[name]:
                self.connection.execute(
                    "UPDATE numbers SET value = ? WHERE name = ?", (value, name)
                )
        self.connection.execute("COMMIT")


class Write(Protocol):
    """One call's work inside a transaction."""

    def __call__(self, transaction: Transaction, /) -> Any: ...


class Follower(Protocol):
    """Work that follows commits, from the stored rows: a crash loses none of it (W5)."""

    def follow(self, transaction: Transaction, budget_s: float) -> float | None:
        """Do some of the work, for about `budget_s`.

        Up to which change it has come it must keep in the file, in the same transaction: the
        greatest it has seen in rows, since calls after it are stamped with `transaction.change`.

        Returns:
            Seconds until it wants to go on, 0 for as soon as possible; None for when something
            was committed.
        """
        ...


class _Following:
    """A follower's turns, by the monotonic clock."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        # At once: it may have been behind when the last process ended.
        self._due_s = 0.0
        self._failed = False

    @property
    def due_s(self) -> float:
        return self._due_s

    def work(self, transaction: Transaction) -> None:
        """Take a turn."""
        try:
            wait_s = transaction.attempt(lambda tx: self._follower.follow(tx, FOLLOW_S))
        except Exception as error:
            name = type(self._follower).__name__
            _log.error("%s failed, and tries again: %s", name, type(error).__name__)
            self.wait_after_failure()
            if not transaction.connection.in_transaction:
                raise
        else:
            self._failed = False
            self._due_s = math.inf if wait_s is None else time.monotonic() + wait_s

    def wait_after_failure(self) -> None:
        """Let a while pass, whatever is committed meanwhile."""
        self._failed = True
        self._due_s = time.monotonic() + FAILED_FOLLOWER_WAIT_S

    def commits(self) -> None:
        """Note that something was committed."""
        if not self._failed:
            self._due_s = min(self._due_s, time.monotonic() + FOLLOW_AFTER_S)


class Writer:
    """The thread.

    Args:
        connection: Handed over to the thread.
        followers: Take their turns in this order.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        clock: Clock,
        waiting_bytes_max: int,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._bytes_max = waiting_bytes_max
        self._watchers: list[Callable[[], object]] = []
        self._following = [_Following(follower) for follower in followers]
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._calls: deque[Call] = deque()
        self._uncommitted = 0
        self._uncommitted_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="everyspan-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Write, size: int) -> Any:
        """Return what `work` returned, once it is committed.

        Args:
            size: Bytes that the call holds in memory, roughly.

        Raises:
            StoreBusyError: Too much waits (W4).
            StoreError: It could not be done; nothing of it is stored.
        """
        call = Call(work, size=size)
        with self._lock:
            if self._closing:
                raise StoreError("the store is closed")
            # A single call over the bound passes when nothing waits, or it never could.
            full = self._uncommitted and self._uncommitted_bytes + size > self._bytes_max
            if full or self._uncommitted >= WAITING_CALLS_MAX:
                raise StoreBusyError(
                    f"{self._uncommitted} writes wait for the disk", retry_after_s=1.0
                )
            self._calls.append(call)
            self._uncommitted += 1
            self._uncommitted_bytes += size
            self._wake.notify()
        return await call.future

    def watch(self, call: Callable[[], object]) -> None:
        """Have `call` called on the thread after each commit; it must not wait."""
        self._watchers.append(call)

    def waiting(self) -> tuple[int, int]:
        """Return how many calls are not yet committed, and their bytes."""
        with self._lock:
            return self._uncommitted, self._uncommitted_bytes

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def close(self) -> None:
        """Commit what was accepted, then end the thread."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        await join(self._thread)

    def _run(self) -> None:
        while self._wait():
            calls: list[Call] = []
            try:
                self._commit(calls)
            except BaseException as error:
                # The thread must outlive whatever happened here, or every later call would hang.
                _log.error("the store's writer failed: %s", type(error).__name__)
                for call in calls:
                    call.error = call.error or error
            with self._lock:
                self._uncommitted -= len(calls)
                self._uncommitted_bytes -= sum(call.bytes for call in calls)
            answer(calls)
        self._connection.close()

    def _wait(self) -> bool:
        """Return True once there is work, False when closed and all is committed."""
        with self._lock:
            while not self._calls:
                if self._closing:
                    return False
                wait_s = self._next_turn_s() - time.monotonic()
                if wait_s <= 0:
                    return True
                self._wake.wait(None if wait_s == math.inf else wait_s)
            return True

    def _next_turn_s(self) -> float:
        return min((each.due_s for each in self._following), default=math.inf)

    def _take(self, calls: list[Call]) -> None:
        """Move waiting calls into `calls`, at least one if any waits, up to GROUP_BYTES_MAX."""
        with self._lock:
            size = 0
            while self._calls and (not calls or size + self._calls[0].bytes <= GROUP_BYTES_MAX):
                calls.append(self._calls.popleft())
                size += calls[-1].bytes

    def _commit(self, calls: list[Call]) -> None:
        """Do in one transaction what there is; `calls` gets the calls that were in it."""
        due = [each for each in self._following if each.due_s <= time.monotonic()]
        try:
            transaction = Transaction(self._connection, self._clock)
            for each in due:
                each.work(transaction)
            # Only now: what came while followers worked needs no transaction of its own.
            self._take(calls)
            for call in calls:
                try:
                    call.result = transaction.attempt(call.work)
                except Exception as error:
                    if not self._connection.in_transaction:
                        raise
                    call.error = to_store_error(error) if isinstance(error, apsw.Error) else error
            transaction.commit()
        except apsw.Error as error:
            self._take(calls)
            for call in calls:
                call.error = to_store_error(error)
            for each in due:
                each.wait_after_failure()
            if not calls:
                _log.error("the store could not be written: %s", error)
        else:
            if calls:
                for each in self._following:
                    each.commits()
            for call_watcher in self._watchers:
                call_watcher()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
