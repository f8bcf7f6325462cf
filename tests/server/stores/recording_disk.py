"""A disk that remembers every write, so that the power can be cut at any of them afterwards.

An `apsw.VFS` that passes everything on to the system and keeps a log. `Disk.images` replays the
log: what a cut leaves of each file is what was synced before it, and of the rest nothing, or a
random part in which writes are missing or torn at a sector.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import apsw

SECTOR = 512

_Op = tuple[Literal["write", "truncate", "sync", "delete"], str, int, bytes]


class Disk(apsw.VFS):
    """Register under `name`; open a connection with `vfs=name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[_Op] = []
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self.log, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.log.append(("delete", Path(filename).name, 0, b""))
        super().xDelete(filename, syncdir)

    def images(
        self, cuts: Iterable[int], rng: random.Random, *, torn: bool
    ) -> Iterator[tuple[int, dict[str, bytes]]]:
        """Yield, for each cut in ascending order, what the files hold after it.

        Args:
            cuts: Numbers of log entries that happened before the power went.
            torn: Whether a random part of what was not synced survives.
        """
        safe: dict[str, bytearray] = {}
        unsynced: dict[str, list[_Op]] = {}
        position = 0
        for cut in sorted(cuts):
            for op in self.log[position:cut]:
                kind, name, *_ = op
                if kind == "delete":
                    safe.pop(name, None)
                    unsynced.pop(name, None)
                elif kind == "sync":
                    for pending in unsynced.pop(name, []):
                        _apply(safe.setdefault(name, bytearray()), pending)
                else:
                    unsynced.setdefault(name, []).append(op)
            position = cut
            image = {name: bytearray(content) for name, content in safe.items()}
            if torn:
                for name, ops in unsynced.items():
                    for kind, _, offset, data in ops:
                        if rng.random() < 0.5:
                            kept = len(data)
                            if kind == "write" and rng.random() < 0.2:
                                kept = rng.randrange(0, kept + 1, SECTOR)
                            op = (kind, name, offset, data[:kept])
                            _apply(image.setdefault(name, bytearray()), op)
            yield cut, {name: bytes(content) for name, content in image.items()}


class _File(apsw.VFSFile):
    def __init__(
        self, log: list[_Op], name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._log = log
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._log.append(("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._log.append(("truncate", self._name, newsize, b""))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._log.append(("sync", self._name, 0, b""))


def _apply(content: bytearray, op: _Op) -> None:
    kind, _, offset, data = op
    if kind == "truncate":
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data
