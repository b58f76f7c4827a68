"""A fleet that starts one small program whatever it is told to start, and remembers what that was."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wanspec_p2p.cli.processes import Child, Fleet

__all__ = ["RecordedFleet"]


class RecordedFleet(Fleet):
    """Args:
    program: of Python, run in place of every command.

    Attributes:
        commands: what was to be run, by name.
        secrets: what was told on stdin, by name.
    """

    def __init__(self, directory: Path, program: str) -> None:
        super().__init__(directory, os.environ)
        self._program = program
        self.commands: dict[str, list[str]] = {}
        self.secrets: dict[str, str | None] = {}

    async def start(self, name: str, command: Sequence[str], *, secret: str | None = None) -> Child:
        self.commands[name], self.secrets[name] = list(command), secret
        return await super().start(name, [sys.executable, "-S", "-c", self._program], secret=secret)
