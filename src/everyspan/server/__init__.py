"""The trace server: ingest, query and an embedded store on one port."""

from __future__ import annotations

from everyspan.server.run import run

__all__ = ["run"]
