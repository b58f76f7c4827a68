"""What the documents tell a reader to type: the blocks of a page, their commands, and what is shown of the answer.

A page is Markdown. A `console` block holds commands after `$ ` and, below each, what it prints; a `python` block is a
program; a `toml` block whose first line is a comment with a file's name is that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "LANGUAGES",
    "Block",
    "Command",
    "Replacements",
    "blocks",
    "commands",
    "exemption",
    "file_named",
    "not_shown",
]

FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = frozenset({"console", "python", "toml", "json", "yaml", "text", "ini", "nginx", "mermaid"})
"""What a block may say it is. The first three are run or written; nobody is told to type the others."""


@dataclass(frozen=True, slots=True)
class Block:
    """`line` is that of its first line of text, from 1."""

    line: int
    language: str
    body: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it is typed, its continuation lines included, and the lines that are shown below it."""

    line: int
    text: str
    shown: tuple[str, ...] = ()


def blocks(page: str) -> Iterator[Block]:
    for found in FENCE.finditer(page):
        yield Block(page.count("\n", 0, found.start(2)) + 1, found[1], found[2])


def commands(block: Block) -> list[Command]:
    """Of a `console` block.

    Raises:
        ValueError: something is shown before the first command.
    """
    found: list[Command] = []
    lines = iter(enumerate(block.body.splitlines(), block.line))
    for number, line in lines:
        if line.startswith("$ "):
            text = line[2:]
            while text.endswith("\\"):
                text += "\n" + next(lines)[1]
            found.append(Command(number, text))
        elif line.strip():
            if not found:
                raise ValueError(f"line {number} shows {line!r} before any command: a command begins with '$ '")
            found[-1] = Command(found[-1].line, found[-1].text, (*found[-1].shown, line))
    return found


def file_named(block: Block) -> str | None:
    """The file that a block is the text of, where its first line says so: `# plan.toml`."""
    first = re.match(r"# (\S+\.\w+)\n", block.body)
    return first[1] if first else None


def not_shown(expected: Sequence[str], printed: str) -> list[str]:
    """The lines that are shown and were not printed in this order, from the first one on.

    `…` stands for any text. A line without it is compared by its first two words: what follows are addresses, times and
    figures. Spaces count as one.
    """
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    return [shown for shown in expected if shown.strip() and not any(_as_shown(shown, line) for line in lines)]


def _as_shown(shown: str, line: str) -> bool:
    words = shown.split()
    if "…" not in shown:
        return line.split()[:2] == words[:2]
    return re.fullmatch(".*".join(map(re.escape, " ".join(words).split("…"))), line) is not None


@dataclass(slots=True)
class Replacements:
    """What stands in a page for something of the reader's, and what takes its place in a test."""

    table: Mapping[str, str]
    used: set[str] = field(default_factory=set)

    def apply(self, text: str) -> str:
        """The longest go first, so that one may be part of another; what was put in is not replaced again."""
        longest = sorted(self.table, key=len, reverse=True)
        if not longest:
            return text
        return re.sub("|".join(map(re.escape, longest)), self._replace, text)

    def _replace(self, found: re.Match[str]) -> str:
        self.used.add(found[0])
        return self.table[found[0]]

    @property
    def unused(self) -> set[str]:
        return set(self.table) - self.used


def exemption(text: str, exempt: Mapping[str, str]) -> str | None:
    """The entry, the beginning of a command or program, that says why this one is not run."""
    return next((begin for begin in exempt if text.startswith(begin)), None)
