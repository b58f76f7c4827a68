"""What commands that print figures have in common: lists of numbers as flags, and the date beside what was printed."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wanspec_p2p.errors import ConfigError

__all__ = ["LARGEST_SEED", "check_folder", "check_svg", "listed", "numbers", "today", "whole", "write_pictures"]

LARGEST_SEED = 2**63 - 1
"""JSON has numbers up to twice that, and there are seeds counted from it on."""


def numbers(flag: str, text: str, least: float, most: float) -> tuple[float, ...]:
    """Those of a flag, in its order.

    Args:
        text: numbers with commas.

    Raises:
        ConfigError: one is out of range, none at all, or there twice.
    """
    values: list[float] = []
    for part in map(str.strip, text.split(",")):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise ConfigError(f"{flag}: {part!r} is not a number from {least:g} to {most:g}")
        if value in values:
            raise ConfigError(f"{flag}: {part!r} is named twice")
        values.append(value)
    return tuple(values)


def whole(flag: str, text: str, most: int) -> tuple[int, ...]:
    """As `numbers`, from 1 on, and whole."""
    values = numbers(flag, text, 1, most)
    for value in values:
        if value != int(value):
            raise ConfigError(f"{flag}: '{value:g}' is not a whole number from 1 to {most}")
    return tuple(map(int, values))


def listed(values: Sequence[float]) -> str:
    """As a flag has them, with all that tells one from another."""
    return ",".join(f"{value:.15g}" for value in values)


def today() -> str:
    """The date in UTC, as ISO 8601 writes it."""
    from datetime import UTC, datetime

    from wanspec_p2p.clock import SystemClock

    return datetime.fromtimestamp(SystemClock().wall(), UTC).date().isoformat()


def check_folder(flag: str, file: Path) -> None:
    """Raises ConfigError: a file cannot be made where `file` is to be."""
    if not (os.path.isdir(file.parent) and os.access(file.parent, os.W_OK | os.X_OK)):
        raise ConfigError(f"{flag} {file}: {file.parent} is no folder that can be written to")


def check_svg(figure: Path) -> None:
    """What is wrong with `--figure` is better said before minutes have gone by.

    Raises:
        ConfigError: no such file can be drawn.
    """
    if figure.suffix != ".svg":
        raise ConfigError(f"--figure {figure}: its name must end in .svg")
    for file in (figure, figure.with_suffix(".png")):
        if os.path.isdir(file):  # `is_dir` raises where a name is too long
            raise ConfigError(f"--figure {figure}: {file} is a folder")
    check_folder("--figure", figure)
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--figure needs matplotlib: install it, or wanspec-p2p with [distill]")


def write_pictures(figure: Path, drawn: Mapping[str, bytes]) -> None:
    """Each kind under the name of the SVG file, with an ending of its own.

    Raises:
        ConfigError: a file cannot be written.
    """
    from wanspec_p2p.models.distill.files import replace_file

    for kind, content in drawn.items():
        replace_file(figure.with_suffix(f".{kind}"), content, again="repeat the command")
