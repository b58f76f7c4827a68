"""What the answer to a refused dial says: the reason in it, as far as it is fit to be shown."""

from __future__ import annotations

import msgspec

__all__ = ["MAX_REASON_SHOWN", "reason_in"]

MAX_REASON_SHOWN = 200


class _Error(msgspec.Struct):
    message: str


class _Body(msgspec.Struct):
    error: _Error


def reason_in(body: bytes | bytearray | None) -> str:
    """`error.message` of JSON as we write it, or else the one line of plain text; empty where it is neither.

    A stranger may have written it: what does not print is left out, and so is what is long.
    """
    try:
        said = msgspec.json.decode(body or b"", type=_Body).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = bytes(body or b"").decode(errors="ignore").strip()
        if "\n" in said or said.startswith(("<", "{")):  # a page, or JSON of somebody else's
            return ""
    printable = "".join(character for character in " ".join(said.split()) if character.isprintable())
    return printable[:MAX_REASON_SHOWN].strip()
