"""Who settled which token, on the screen: a colour for each node, plain for the target alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wanspec_p2p.cli.output import printable, short
from wanspec_p2p.client.answers import Piece
from wanspec_p2p.types import TokenOrigin

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Origins"]

TARGET_STYLE = "white"
NODE_STYLES = ("bright_cyan", "bright_magenta", "bright_green", "bright_yellow", "bright_blue", "bright_red")


class Origins:
    """Hands out a colour to each node in the order it first appears, and counts."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = names or {}
        self._styles: dict[str, str] = {name: NODE_STYLES[i % len(NODE_STYLES)] for i, name in enumerate(self._names)}
        self.counts: Counter[TokenOrigin] = Counter()

    def name(self, origin: TokenOrigin) -> str:
        return "target alone" if origin is None else printable(self._names.get(origin, short(origin)))

    def coloured(self, piece: Piece) -> Text:
        """The text of a piece in the colour of whoever settled it.

        A piece that several settled takes the first node's; text the target held back has no token, and is its own.
        """
        from rich.text import Text

        self.counts.update(piece.origins)
        return Text(printable(piece.text), style=self._style(next(filter(None, piece.origins), None)))

    def legend(self) -> Text:
        """One word for each origin in its colour, with the tokens it settled."""
        from rich.text import Text

        words = [
            Text(f"{self.name(origin)} {count}", style=self._style(origin))
            for origin, count in sorted(
                self.counts.items(), key=lambda entry: (entry[0] is not None, self.name(entry[0]))
            )
        ]
        return Text(" · ").join(words)

    def _style(self, origin: TokenOrigin) -> str:
        if origin is None:
            return TARGET_STYLE
        return self._styles.setdefault(origin, NODE_STYLES[len(self._styles) % len(NODE_STYLES)])
