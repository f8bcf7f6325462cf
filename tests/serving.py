"""A real everyspan server in a process of its own, for tests of any part."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = """
import sys
from everyspan.server import run
{prelude}
run(port=int(sys.argv[2]), store_path=sys.argv[1], {options}
    ready=lambda host, port, _: print(f"http://{{host}}:{{port}}", flush=True))
"""
_STOP_TIME_MAX_S = 20.0


class ServerProcess:
    """A running server; `base_url` is where.

    Args:
        prelude: Statements for the new process to run before it serves.
        options: Further arguments of `run`, as source.
    """

    def __init__(
        self, store_path: Path, *, port: int = 0, prelude: str = "", options: str = ""
    ) -> None:
        self.store_path = store_path
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # As long as the process.
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _SCRIPT.format(prelude=prelude, options=options and f"{options},"),
                str(store_path),
                str(port),
            ],
            stdout=subprocess.PIPE,
            # A file: nobody reads while the server runs, and a full pipe would stop it.
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        self.base_url = self.process.stdout.readline().strip()
        if not self.base_url:
            self.process.communicate()
            raise RuntimeError(f"the server did not start:\n{self._read_errors()}")

    def kill(self) -> None:
        """End it as a power button would, as far as this machine allows: SIGKILL."""
        self.process.kill()
        self.process.communicate()
        self._errors.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it in order; return what it wrote to stderr."""
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=_STOP_TIME_MAX_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        errors = self._read_errors()
        if self.process.returncode != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}:\n{errors}")
        return errors

    def _read_errors(self) -> str:
        with self._errors as errors:
            errors.seek(0)
            return errors.read()


@contextmanager
def serving(store_path: str | Path | None = None) -> Iterator[str]:
    """Serve on a free loopback port; yield the base URL; stop at the end.

    Args:
        store_path: The SQLite file; None keeps one in a folder that is deleted afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(store_path or Path(folder) / "spans.db"))
        try:
            yield server.base_url
        finally:
            server.stop()
