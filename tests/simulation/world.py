"""Time, event loops and threads that exist only in a seeded random order.

W1  Time stands still while anything is ready; it goes on to the next timer, never by itself.
W2  One callback runs at a time. Which loop's, and of timers due together which, is drawn.
W3  The same seed gives the same order: nothing here goes by addresses or the machine's clock.

Threads are played too: `here` is the loop, or None for the agent's own thread, whose code runs.
What blocks its thread (`block`) lets all others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from random import Random
from typing import Any

from everyspan.home import Home

EPOCH_NS = 1_800_000_000_000_000_000

EVENTS_MAX = 20_000
"""Ten times what a long scenario takes."""


class Violation(AssertionError):
    """Something does not hold that was promised."""


class SimulatedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address (W3)."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.AbstractEventLoop):
    """An event loop without sockets whose callbacks a `World` runs.

    `runs` is False once it was stopped; it may be left like that, or closed with tasks on it.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.runs = True
        self.is_blocked = False
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: list[SimulatedTask] = []
        self._is_closed = False

    def time(self) -> float:
        return self.world.now_s

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        if self._is_closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._is_closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.add_timer(when, self, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = SimulatedTask(coro, number=next(self.world.numbers), loop=self, **options)
        self.tasks.append(task)
        return task

    def unfinished(self) -> list[SimulatedTask]:
        """Return the tasks that are not done, oldest first."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return self.tasks

    def is_running(self) -> bool:
        return self.runs

    def is_closed(self) -> bool:
        return self._is_closed

    def stop(self) -> None:
        self.runs = False

    def close(self) -> None:
        self.runs = False
        self._is_closed = True
        self.ready.clear()

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "destroyed" not in context.get("message", ""):
            self.world.found(context.get("exception") or Violation(str(context)))


class SimulatedHome(Home):
    """A loop seen from other threads."""

    __slots__ = ()
    loop: SimulatedLoop

    def start(self) -> bool:
        """Run; nothing is to be started."""
        return True

    @property
    def is_here(self) -> bool:
        """True while code of this loop runs."""
        return self.loop.world.here is self.loop


class World:
    """See the module text.

    Args:
        shuffles: Draw also which of a loop's ready callbacks runs, which asyncio does not promise
            to do; what belongs together must not rely on being first.
        events_max: What would be an endless run.
    """

    def __init__(self, seed: int, *, shuffles: bool = False, events_max: int = EVENTS_MAX) -> None:
        self.random = Random(seed)
        self.now_s = 1_000.0
        self.wall_jump_ns = 0
        self.events = 0
        self.blocks = 0
        self.here: SimulatedLoop | None = None
        self.loops: list[SimulatedLoop] = []
        self.numbers = count(1)
        self.after_event: Callable[[], object] = lambda: None
        self.before_time_passes: Callable[[], object] = lambda: None
        self._shuffles = shuffles
        self._events_max = events_max
        self._depth = 0
        self._error: BaseException | None = None
        self._timers: list[
            tuple[float, float, int, SimulatedLoop | None, Any, tuple[Any, ...]]
        ] = []

    # -- a clock (see `everyspan.clock`)

    def monotonic(self) -> float:
        """Return the seconds of the simulation."""
        return self.now_s

    def time_ns(self) -> int:
        """Return Unix time, which jumps."""
        return EPOCH_NS + int(self.now_s * 1e9) + self.wall_jump_ns

    def call_at(
        self, loop: asyncio.AbstractEventLoop, when_s: float, call: Callable[[], object]
    ) -> asyncio.TimerHandle:
        """Have the loop call."""
        return loop.call_at(when_s, call)

    # -- what is to happen

    def new_loop(self, name: str) -> SimulatedLoop:
        """Return a loop that runs from now on."""
        loop = SimulatedLoop(self, name)  # type: ignore[abstract]
        self.loops.append(loop)
        return loop

    def at(self, when_s: float, call: Callable[..., object], *args: Any) -> None:
        """Have something called on no loop: by the agent's thread, or in another process."""
        heapq.heappush(
            self._timers, (when_s, self.random.random(), next(self.numbers), None, call, args)
        )

    def add_timer(self, when_s: float, loop: SimulatedLoop, handle: asyncio.TimerHandle) -> None:
        """Have a loop's timer become ready."""
        heapq.heappush(
            self._timers, (when_s, self.random.random(), next(self.numbers), loop, handle, ())
        )

    def found(self, error: BaseException) -> None:
        """End the run with an error that came up where nobody would see it."""
        self._error = self._error or error

    # -- going on

    def run(self, *, until_s: float, until: Callable[[], bool] | None = None) -> None:
        """Let things happen until a moment, or until something holds."""
        while until is None or not until():
            if not self._step(until_s):
                return

    def block(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Block the thread that runs, others go on."""
        loop = self.here
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        if loop is not None:
            loop.is_blocked = True
        self.here = None
        self.blocks += 1
        self._depth += 1
        try:
            self.run(until_s=self.now_s + timeout_s, until=until)
        finally:
            self._depth -= 1
            self.here = loop
            if loop is not None:
                loop.is_blocked = False
            asyncio._set_running_loop(running)

    @property
    def is_nested(self) -> bool:
        """True while some thread is blocked."""
        return self._depth > 0

    def _step(self, until_s: float) -> bool:
        runnable = [loop for loop in self.loops if loop.ready and loop.runs and not loop.is_blocked]
        if not runnable:
            return self._let_time_pass(until_s)
        draw = self.random.random
        loop = runnable[int(draw() * len(runnable))] if len(runnable) > 1 else runnable[0]
        ready = loop.ready
        if self._shuffles and len(ready) > 1:
            ready.rotate(-int(draw() * len(ready)))
        handle = ready.popleft()
        if handle._cancelled:
            return True
        asyncio._set_running_loop(loop)
        self.here = loop
        try:
            handle._run()
        finally:
            self.here = None
            asyncio._set_running_loop(None)
        self._done()
        return True

    def _let_time_pass(self, until_s: float) -> bool:
        timers = self._timers
        if not timers or timers[0][0] > until_s:
            if until_s > self.now_s:
                self.before_time_passes()
                self.now_s = until_s
            return False
        when_s, _, _, loop, what, args = heapq.heappop(timers)
        if loop is not None and (what._cancelled or not loop.runs):
            return True
        if when_s > self.now_s:
            self.before_time_passes()
            self.now_s = when_s
        if loop is not None:
            loop.ready.append(what)
            return True
        what(*args)
        self._done()
        return True

    def _done(self) -> None:
        self.events += 1
        if self.events > self._events_max:
            raise Violation(f"P4: {self.events} events, and no end of them")
        if self._error is not None:
            raise self._error
        self.after_event()
