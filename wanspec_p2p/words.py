"""Words for people, where a number decides them."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, many: str | None = None) -> str:
    """So many of something, in words.

    Args:
        many: of what there is more than one, or none; by default `one` with an s.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"
