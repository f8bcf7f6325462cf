"""A group of commands, each imported when it is named."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar

import rich_click as click


class LazyGroup(click.RichGroup):
    """See the module text; `at` says where each command is, as `module:attribute`."""

    at: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self.at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for a name that is none."""
        if cmd_name not in self.at:
            return None
        module, _, attribute = self.at[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command
