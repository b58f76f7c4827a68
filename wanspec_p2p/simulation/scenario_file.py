"""Reading a scenario: from a file of anybody's to checked values, or one line that names the key at fault."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.laws import Judged
from wanspec_p2p.simulation.recording import read_recording, shipped
from wanspec_p2p.simulation.scenario import LawOf, Scenario

__all__ = ["judged", "read_scenario"]

MAX_BYTES = 1 << 20
LONGEST = 500
"""Characters that are said of a mistake; a key of a file can be as long as the file."""
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "datetime": "a date with time and zone",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "a text",
}


def read_scenario(file: Path) -> Scenario:
    """The scenario in `file`. Its recording, named relative to the file, has been read once and is one.

    Raises:
        ConfigError: anything else. One line: the file, the key, what is wrong.
    """
    document = _document(file)
    try:
        scenario = msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        raise ConfigError(_line(file, *_place(str(error)))) from error
    if scenario.law.recording is not None:
        path = str(file.parent / scenario.law.recording)
        scenario = msgspec.structs.replace(scenario, law=msgspec.structs.replace(scenario.law, recording=path))
    try:
        judged(scenario.law)
    except ConfigError as error:
        key = "law.tokenizer" if scenario.law.recording is None else "law.recording"
        raise ConfigError(_line(file, key, str(error))) from error
    return scenario


@functools.cache
def judged(law: LawOf) -> tuple[Judged, ...]:
    """Every position of the law's recording; none where it has no recording.

    Raises:
        ConfigError: it is not one, or of another tokenizer.
    """
    if law.kind == "iid":
        return ()
    if law.recording is not None:
        return read_recording(Path(law.recording), tokenizer=law.tokenizer).judged()
    recording = shipped(law.temperature or 0.0)
    if law.tokenizer not in (None, recording.header.tokenizer):
        raise ConfigError(f"the recording that comes with the package has tokenizer {recording.header.tokenizer}")
    return recording.judged()


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(_line(file, "", f"cannot be read: {getattr(error, 'strerror', error)}")) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(_line(file, "", f"is no scenario: it has more than {MAX_BYTES} bytes"))
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib's own error is one, and a number too long to read another
        raise ConfigError(_line(file, "", f"is not valid TOML: {error}")) from error


def _place(message: str) -> tuple[str, str]:
    """msgspec's "what - at `$.where`" as (where, what). An unknown key, or a key that our own checks name, is added."""
    what, _, where = (
        message.rpartition(" - at `$") if message.endswith("`") and " - at `$" in message else (message, "", "")
    )
    key = where.removesuffix("`").removeprefix(".")
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        return _joined(key, match[1]), "there is no such key"
    if match := re.fullmatch(r"Object missing required field `(.*)`", what, re.DOTALL):
        return _joined(key, match[1]), "is missing"
    if match := re.fullmatch(r"`(\w+)`: (.*)", what, re.DOTALL):
        return _joined(key, match[1]), match[2]
    what = re.sub(r"`(\w+)(?: \| null)?`", lambda match: _WORDS.get(match[1], match[0]), what)
    return key, what[:1].lower() + what[1:]


def _joined(*keys: str) -> str:
    return ".".join(filter(None, keys))


def _line(file: Path, key: str, what: str) -> str:
    text = f"{key}: {what}" if key else what
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in f"{file}: {text}")
