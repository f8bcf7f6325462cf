"""Where our asynchronous work runs: a daemon thread with an event loop, or a loop of the user's.

H1  Nothing starts before `start`; every thread is a daemon, so none delays the process's end.
H2  `call` works from any thread, a signal handler and a finalizer; it never waits.
H3  Names resolve on threads of our own. The default executor of asyncio is gone during
    interpreter exit ("can't register atexit after shutdown"), and it is joined without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

_Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Home:
    """An event loop that runs somewhere, seen from any thread."""

    __slots__ = ("_asked_s", "loop", "thread_id")

    name = "the agent's own event loop"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread_id = threading.get_ident()
        self._asked_s: float | None = None

    def call(self, callback: Callable[..., object], *args: object) -> bool:
        """Have the loop call `callback` soon; False if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RecursionError:
            # A RuntimeError too, but the agent's: it has used up the stack.
            raise
        except RuntimeError:
            return False
        return True

    def ask(self, now_s: float) -> float:
        """Ask for a sign of life, unless one is due; return for how long it has been due."""
        if self._asked_s is not None:
            return now_s - self._asked_s
        # First: the answer may come at once.
        self._asked_s = now_s
        is_asked = False
        try:
            is_asked = self.call(self._answer)
        finally:
            if not is_asked:
                self._asked_s = None
        return 0.0

    def _answer(self) -> None:
        self._asked_s = None

    @property
    def is_running(self) -> bool:
        """True if the loop runs now, blocked or not."""
        return self.loop.is_running()

    @property
    def is_here(self) -> bool:
        """True if the calling thread is the one whose loop this is."""
        return threading.get_ident() == self.thread_id


class ThreadHome(Home):
    """A loop of our own on a daemon thread of our own."""

    __slots__ = ("_own_loop", "_thread", "name")

    def __init__(self, name: str) -> None:
        self._own_loop = OwnLoop()
        super().__init__(self._own_loop)
        self.name = name
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the thread, once; False if the interpreter starts no more threads."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            # Set first: a finalizer may come here while the thread starts.
            self._thread = thread
            try:
                # Before the home's thread: later, at exit, no thread could be started for it.
                if not self._own_loop.resolver.is_started:
                    self._own_loop.resolver.start()
                thread.start()
            except RuntimeError:
                self._thread = None
                return False
            assert thread.ident is not None
            self.thread_id = thread.ident
        return True

    @property
    def is_running(self) -> bool:
        """True from `start` until `stop`, even before the thread has got to its loop."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """End the loop and its thread; waits at most `timeout` seconds."""
        thread = self._thread
        if thread is None or not self.call(self.loop.stop):
            return
        if thread.ident != threading.get_ident():
            thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            _finish(self.loop)


class OwnLoop(asyncio.SelectorEventLoop):
    """An event loop that resolves names without an executor (H3)."""

    def __init__(self) -> None:
        # First: a loop that could not be made is closed all the same.
        self.resolver = Resolver()
        super().__init__()

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As the base class's, on a thread of our own."""
        return await self.resolver.call(
            self, socket.getaddrinfo, host, port, family=family, type=type, proto=proto, flags=flags
        )

    def close(self) -> None:
        """Close the loop and let its resolver threads end."""
        self.resolver.close()
        with contextlib.suppress(AttributeError):
            # It has no sockets where there were no descriptors left to make them.
            super().close()


class Resolver:
    """Daemon threads that make blocking name look-ups, one more whenever all are busy."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0

    @property
    def is_started(self) -> bool:
        """True if there is a thread."""
        return self._threads > 0

    def start(self) -> None:
        """Start a thread.

        Raises:
            RuntimeError: The interpreter starts no more threads.
        """
        threading.Thread(target=self._work, name="everyspan-resolver", daemon=True).start()
        self._threads += 1
        self._idle += 1

    async def call(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return `function(*args, **kwargs)`, called on a thread of ours; only from `loop`."""
        if self._idle < 1:
            try:
                self.start()
            except RuntimeError:
                if not self._threads:
                    # At exit, on the thread that ends the process: there is no other.
                    return function(*args, **kwargs)
        future: asyncio.Future[Any] = loop.create_future()
        self._idle -= 1
        self._jobs.put((future, function, args, kwargs))
        return await future

    def close(self) -> None:
        """Let the threads end once they are idle."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function, args, kwargs = job
            result: Any = None
            error: BaseException | None = None
            try:
                result = function(*args, **kwargs)
            except BaseException as caught:
                error = caught
            try:
                future.get_loop().call_soon_threadsafe(self._answer, future, result, error)
            except RuntimeError:
                # The loop was closed meanwhile; nobody waits for the answer.
                return

    def _answer(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        self._idle += 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def runs_a_loop() -> bool:
    """Tell whether an event loop runs on the calling thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_here(main: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
    """Run a coroutine function to its end on `loop`, on the calling thread, and close the loop."""
    try:
        loop.run_until_complete(main())
    finally:
        _finish(loop)


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on a loop of ours, let it unwind, close the loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
