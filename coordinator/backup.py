"""A copy of all that makes a coordinator itself, in one file: taken while it runs, and checked before it is put back.

The file is a tar archive, readable by its owner alone: it holds the coordinator's key. `backup.json` in it names every
other member with its SHA-256, so that a copy that was cut short or damaged is found out before anything is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from coordinator.schema import open_database
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import locked
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import CERTIFICATE, NEXT
from wanspec_p2p.security.self_made import KEY as TLS_KEY
from wanspec_p2p.types import PeerId

__all__ = ["Contents", "back_up", "restore"]

FORMAT = 1
INDEX = "backup.json"
KEY, LEDGER = "identity.pem", "ledger.sqlite3"
OTHERS = ("succession.json", *(f"tls/{name}" for name in (CERTIFICATE, TLS_KEY, NEXT)))
"""Kept where they are there; a key that was never changed has no succession, a loopback coordinator no certificate."""
MAX_INDEX_BYTES = 65_536
CHUNK = 1 << 20


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `backup.json` says."""

    format: int
    coordinator: PeerId  # whose copy it is
    taken: int  # seconds since the Unix epoch
    files: dict[str, str]  # name → SHA-256 in hex


def back_up(settings: CoordinatorSettings, file: Path, *, now: float) -> Contents:
    """Copy the key and the ledger, and what belongs to them, into `file` (0600). The coordinator may run meanwhile.

    The ledger is copied beside `file` first: where it lies itself, there may be no room for a second one.

    Raises:
        ConfigError: there is nothing to copy, `file` is there already, or the copy cannot be written or is not sound.
        UsageError: the key file cannot be used.
    """
    for needed in (settings.identity_file, settings.ledger_file):
        if not needed.exists():
            raise ConfigError(f"there is no {needed.name} in {settings.data_dir}: name the coordinator's --data-dir")
    identity = Identity.load_or_create(settings.identity_file)
    try:
        with _new(file) as descriptor, tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as scratch:
            ledger = Path(scratch) / LEDGER
            _copy_database(settings.ledger_file, ledger)
            members = {KEY: settings.identity_file, LEDGER: ledger}
            members |= {name: path for name in OTHERS if (path := settings.data_dir / name).exists()}
            contents = Contents(FORMAT, identity.peer_id, int(now), {n: _sha256(p) for n, p in members.items()})
            _write(descriptor, contents, members)
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already, and is not overwritten: choose another name") from error
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the copy could not be made: {error}") from error
    return contents


def restore(settings: CoordinatorSettings, file: Path) -> Contents:
    """Put a copy into a data directory that has neither key nor ledger.

    Everything is unpacked and checked beside its place before the first file gets its name; the key gets it last.

    Raises:
        ConfigError: a coordinator is there already, or the copy is damaged, or of another release.
    """
    with locked(settings.lock_file, "coordinator"):
        for taken in (settings.data_dir / name for name in (KEY, LEDGER, f"{LEDGER}-wal", *OTHERS)):
            if taken.exists():
                raise ConfigError(
                    f"{taken} is there already, and is not overwritten: move it away, or restore elsewhere"
                )
        try:
            with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".restore-") as scratch:
                contents = _unpack(file, Path(scratch))
                for name in sorted(contents.files, key=lambda name: name == KEY):
                    target = settings.data_dir / name
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    os.rename(Path(scratch) / name, target)
        except OSError as error:
            raise ConfigError(f"{file} could not be restored: {error}") from error
    return contents


@contextlib.contextmanager
def _new(file: Path) -> Iterator[int]:
    """A file that was not there and is its owner's alone; it goes again where something fails."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _copy_database(source: Path, target: Path) -> None:
    """By SQLite's own online backup: a moment of a database that others go on writing to."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    with contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as live:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            (verdict,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise ConfigError(
            f"the ledger {source} is damaged ({verdict}): this copy would be of no use; look for an older one"
        )


def _write(descriptor: int, contents: Contents, members: Mapping[str, Path]) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, INDEX, io.BytesIO(index := msgspec.json.encode(contents)), len(index), contents.taken)
            for name, path in members.items():
                with path.open("rb") as member:
                    _add(archive, name, member, path.stat().st_size, contents.taken)
        raw.flush()
        os.fsync(raw.fileno())


def _add(archive: tarfile.TarFile, name: str, content: io.BufferedIOBase, size: int, time: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, time, 0o600
    archive.addfile(entry, content)


def _unpack(file: Path, scratch: Path) -> Contents:
    """Names in the archive decide nothing: only those we know are looked up, and what they hold must be as indexed."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            contents = _index(archive, file)
            for name, expected in contents.files.items():
                path = scratch / name
                path.parent.mkdir(mode=0o700, exist_ok=True)
                if _extract(archive, name, path) != expected:
                    raise ConfigError(f"{file} is damaged: {name} is not what it was; use another copy")
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise ConfigError(f"{file} is no backup of a coordinator, or is damaged ({error}): use another copy") from error
    _check(file, scratch, contents)
    return contents


def _index(archive: tarfile.TarFile, file: Path) -> Contents:
    member = archive.extractfile(INDEX)
    try:
        contents = msgspec.json.decode(member.read(MAX_INDEX_BYTES) if member else b"", type=Contents)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} is no backup of a coordinator that this release can read: {error}") from error
    if contents.format != FORMAT:
        raise ConfigError(f"{file} has format {contents.format}, and this release reads {FORMAT}: update wanspec-p2p")
    if not {KEY, LEDGER} <= set(contents.files) <= {KEY, LEDGER, *OTHERS}:
        raise ConfigError(f"{file} does not hold what a coordinator consists of: use another copy")
    return contents


def _extract(archive: tarfile.TarFile, name: str, path: Path) -> str:
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while chunk := member.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _check(file: Path, scratch: Path, contents: Contents) -> None:
    try:
        identity = Identity.from_pem((scratch / KEY).read_bytes())
    except ValueError as error:
        raise ConfigError(f"the key in {file} cannot be read ({error}): use another copy") from error
    if identity.peer_id != contents.coordinator:
        raise ConfigError(f"the key in {file} is not that of {contents.coordinator}: use another copy")
    open_database(scratch / LEDGER).close()  # sound, and not of a newer release


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
