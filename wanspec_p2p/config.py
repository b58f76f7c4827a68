"""Where things lie on disk, and how frozen settings are built once at the edge: file, then variables, then flags.

Nobody below the command line reads `os.environ`; services are handed settings that no longer change.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from wanspec_p2p.errors import ConfigError

__all__ = [
    "CONFIG_FILE",
    "Paths",
    "Sourced",
    "check_length",
    "check_range",
    "home_directory",
    "load_settings",
    "load_sourced",
    "read_section",
]

CONFIG_FILE = "wanspec.toml"
SECTIONS = ("coordinator", "node", "submitter", "target")
"""The tables of `CONFIG_FILE`; nothing else stands at its top."""

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Paths:
    """The four directories of one user (XDG Base Directory Specification); none of them is created here."""

    data: Path  # keys, ledgers, what must not be lost
    cache: Path  # converted models: can be made again
    config: Path  # wanspec.toml
    state: Path  # logs

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Paths:
        """`WANSPEC_DATA_DIR` and `WANSPEC_CACHE_DIR` name a directory itself; the XDG variables name its parent.

        Raises:
            ConfigError: an override that is not an absolute path.
        """
        return cls(**{name: path for name, (path, _) in _directories(environ).items()})

    @staticmethod
    def origins(environ: Mapping[str, str]) -> dict[str, str]:
        """Where `from_environment` has each of them from, in the words of `Sourced`."""
        return {name: origin for name, (_, origin) in _directories(environ).items()}


def home_directory(environ: Mapping[str, str]) -> Path:
    """Raises ConfigError where there is none: in a container that runs as a user nobody made, say."""
    try:
        return Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError as error:
        raise ConfigError("this user has no home directory: name one in the variable HOME") from error


def _directories(environ: Mapping[str, str]) -> dict[str, tuple[Path, str]]:
    home = home_directory(environ)

    def directory(override: str | None, xdg: str, default: str) -> tuple[Path, str]:
        if override is not None and (value := environ.get(override)):
            try:
                path = _expanded(value)
            except ValueError as error:
                raise ConfigError(f"{override}: {error}") from error
            if not path.is_absolute():
                raise ConfigError(f"{override} must be an absolute path, not {value!r}")
            return path, f"variable {override}"
        # "All paths set in these environment variables must be absolute"; others are to be ignored.
        parent = Path(environ.get(xdg, ""))
        if parent.is_absolute():
            return parent / "wanspec", f"variable {xdg}"
        return home / default / "wanspec", "default"

    return {
        "data": directory("WANSPEC_DATA_DIR", "XDG_DATA_HOME", ".local/share"),
        "cache": directory("WANSPEC_CACHE_DIR", "XDG_CACHE_HOME", ".cache"),
        "config": directory(None, "XDG_CONFIG_HOME", ".config"),
        "state": directory(None, "XDG_STATE_HOME", ".local/state"),
    }


def read_section(file: Path, section: str) -> dict[str, Any]:
    """One table of a TOML file; empty where the file or the table is missing.

    Raises:
        ConfigError: the file cannot be read or is not TOML, something but the tables of `SECTIONS` stands at its top,
            or one of those is not a table.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    for name, value in document.items():
        _check_top(name, value, {*SECTIONS, section}, file)
    table: dict[str, Any] = document.get(section, {})
    return table


def _check_top(name: str, value: object, known: Iterable[str], file: Path) -> None:
    if name in known:
        if not isinstance(value, dict):
            raise ConfigError(f"[{name}] in {file} must be a table")
        return
    tables = {table: f"[{table}]" for table in sorted(known)}
    if not isinstance(value, dict):
        where = ", ".join(tables.values())
        raise ConfigError(f"{name} in {file} stands outside all tables: put it below the one it belongs to, of {where}")
    raise ConfigError(f"[{name}] in {file} is not a table of settings{_meant(name, tables)}")


def _meant(name: str, known: Mapping[str, str]) -> str:
    """Which known name a misspelt one is nearest to; where none is near, which there are.

    Args:
        known: in small letters, and as they are written.
    """
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f": did you mean {known[near[0]]}?" if near else f"; known are {', '.join(sorted(known.values()))}"


@dataclass(frozen=True, slots=True)
class Sourced:
    """The value of a setting, and where it came from, in words."""

    value: object
    origin: str


def load_settings(
    kind: type[Settings],
    section: str,
    *,
    file: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """A frozen dataclass from `defaults`, `[section]` of `file`, `WANSPEC_<SECTION>_<FIELD>` and flags; later ones win.

    A variable that is empty counts as one that is not set.

    Args:
        kind: a dataclass; its fields are the allowed keys and their types the checks.
        flags: what the command line gave; None means the flag was not given.
        defaults: values that only the edge can know, such as directories, with where they came from if `Sourced`; the
            dataclass's own defaults come last.

    Raises:
        ConfigError: an unknown key or variable, a value that will not do, or a field that nobody set. The message names
            the key and where its value came from.
    """
    return load_sourced(kind, section, file=file, environ=environ, flags=flags, defaults=defaults)[0]


def load_sourced(
    kind: type[Settings],
    section: str,
    *,
    file: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    defaults: Mapping[str, object] | None = None,
) -> tuple[Settings, dict[str, Sourced]]:
    """As `load_settings`, and of each field, in order, where its value came from."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # Settings is a dataclass
    given = {
        name: value if isinstance(value, Sourced) else Sourced(value, "default")
        for name, value in (defaults or {}).items()
    }
    given |= _from_file(file, section, typing.get_type_hints(kind))
    given |= _from_outside(environ, flags, section, typing.get_type_hints(kind))
    for name, field in fields.items():
        if name not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{section}.{name} is not set: give --{name.replace('_', '-')} or put it in {file}")
    try:
        settings = kind(**{name: sourced.value for name, sourced in given.items()})
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"[{section}]: {error}{_origin(str(error), given)}") from error
    return settings, {name: given.get(name) or Sourced(getattr(settings, name), "default") for name in fields}


def _origin(complaint: str, given: Mapping[str, Sourced]) -> str:
    """Where a value came from that a dataclass will not have; what it says of it begins with the field."""
    field = re.match(r"\w*", complaint)
    sourced = given.get(field[0]) if field else None
    return "" if sourced is None or sourced.origin == "default" else f" ({sourced.origin})"


def _from_file(file: Path, section: str, hints: Mapping[str, Any]) -> dict[str, Sourced]:
    found = {}
    for key, value in read_section(file, section).items():
        if key not in hints:
            raise ConfigError(
                f"{section}.{key} in {file} is not a setting{_meant(key, {name: name for name in hints})}"
            )
        converted = _converted(value, hints[key], f"{section}.{key} in {file}", strict=True)
        found[key] = Sourced(converted, f"file {file}")
    return found


def _from_outside(
    environ: Mapping[str, str], flags: Mapping[str, object], section: str, hints: Mapping[str, Any]
) -> dict[str, Sourced]:
    found = {}
    _check_variables(environ, section, hints)
    for key, hint in hints.items():
        variable, flag = _variable(section, key), f"--{key.replace('_', '-')}"
        if environ.get(variable):
            found[key] = Sourced(_converted(environ[variable], hint, variable, strict=False), f"variable {variable}")
        if flags.get(key) is not None:
            found[key] = Sourced(_converted(flags[key], hint, flag, strict=False), "command line")
    return found


def _variable(section: str, key: str) -> str:
    return f"WANSPEC_{section}_{key}".upper()


def _check_variables(environ: Mapping[str, str], section: str, keys: Iterable[str]) -> None:
    """Those that begin with a section's name are its own; `WANSPEC_COORDINATOR` and `WANSPEC_API_KEY` do not."""
    prefix, known = _variable(section, ""), {key: _variable(section, key) for key in keys}
    for name in sorted(environ):
        if name.startswith(prefix) and environ[name] and name not in known.values():
            raise ConfigError(f"variable {name} is not a setting{_meant(name.removeprefix(prefix), known)}")


def check_length(settings: object, field: str, longest: int) -> None:
    """Raises ValueError unless the text of a field, where it is set, has between 1 and `longest` characters."""
    value = getattr(settings, field)
    if value is not None and not 1 <= len(value) <= longest:
        raise ValueError(f"{field} must have between 1 and {longest} characters")


def check_range(settings: object, field: str, low: int, high: int | None = None) -> None:
    """Raises ValueError unless the number of a field, where it is set, is `low` or more, and at most `high`."""
    value = getattr(settings, field)
    if value is not None and not (low <= value and (high is None or value <= high)):
        wanted = f"{low} or more" if high is None else f"between {low} and {high}"
        raise ValueError(f"{field} must be {wanted}, not {value}")


def _converted(value: object, hint: Any, source: str, *, strict: bool) -> object:
    if not strict and isinstance(value, str) and typing.get_origin(hint) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, hint, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        if hint is bool:
            raise ConfigError(f"{source} must be true or false, not {value!r}") from error
        raise ConfigError(f"{source}: {error}") from error


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return _expanded(value)
    raise NotImplementedError(f"no settings of type {kind.__name__}")


def _expanded(value: str | Path) -> Path:
    """Raises ValueError where it begins with the home of a user that is none."""
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{Path(value).parts[0]} is nobody's home directory") from error
