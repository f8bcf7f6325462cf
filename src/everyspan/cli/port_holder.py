"""Name the process that listens on a port of this machine, as far as it can be had (Linux)."""

from __future__ import annotations

from pathlib import Path

from everyspan.cli.text import visible

_LISTEN = "0A"


def port_holder(port: int) -> str | None:
    """Return `python3 (pid 4711)`, or None where the holder cannot be told."""
    try:
        sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
        if not sockets:
            return None
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _holds(process, sockets):
                name = (process / "comm").read_text(errors="replace").strip()
                return f"{visible(name)} (pid {process.name})"
    except OSError:
        pass
    return None


def _listening_inodes(port: int) -> list[str]:
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            local_port = int(columns[1].rpartition(":")[2], 16)
            if local_port == port and columns[3] == _LISTEN:
                inodes.append(columns[9])
    return inodes


def _holds(process: Path, sockets: set[str]) -> bool:
    try:
        return any(str(fd.readlink()) in sockets for fd in (process / "fd").iterdir())
    except OSError:
        # Gone, or another user's: not ours to see.
        return False
