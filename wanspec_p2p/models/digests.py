"""Which files a model directory consists of, and whether they are still the ones that were put there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from wanspec_p2p.errors import DigestMismatch, ModelError
from wanspec_p2p.security.files import write_whole

__all__ = [
    "MANIFEST",
    "FileRecord",
    "Manifest",
    "read_manifest",
    "record_files",
    "save_manifest",
    "sha256_file",
    "weights_digest",
    "write_manifest",
]

MANIFEST = "manifest.json"
CHANGING_LOGITS = ("config.json", "copying.json")
"""They count as weights. RoPE's base, the norm's epsilon, the tied head, what a drafter copies: they change logits."""


class FileRecord(msgspec.Struct, frozen=True):
    """A file as it was when its digest was taken; `mtime_ns` tells cheaply whether to take it again."""

    sha256: str
    size: int
    mtime_ns: int

    def untouched(self, path: Path) -> bool:
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


class Manifest(msgspec.Struct, frozen=True):
    """What `manifest.json` of a cached model says: where it came from, and every file."""

    source: str
    files: dict[str, FileRecord]

    @property
    def digest(self) -> str:
        """SHA-256 over the weights; see `weights_digest`."""
        return weights_digest((name, record.sha256) for name, record in self.files.items())

    def changed(self, directory: Path) -> Iterator[str]:
        """The files that are gone or whose size or time differs from the record."""
        for name, record in self.files.items():
            path = directory / name
            if not path.is_file() or not record.untouched(path):
                yield name

    def verify(self, directory: Path, names: Iterable[str]) -> None:
        """Take the digests of `names` again.

        Raises:
            DigestMismatch: a file whose content differs.
            ModelError: a file that is gone.
        """
        for name in names:
            path = directory / name
            if not path.is_file():
                raise ModelError(f"{path} is missing: delete {directory} and pull again")
            found = sha256_file(path)
            if found != self.files[name].sha256:
                raise DigestMismatch(str(path), self.files[name].sha256, found)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(files: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the lines "name sha256" of the safetensors files and of CHANGING_LOGITS, sorted by name."""
    lines = sorted(
        f"{name} {sha256}\n" for name, sha256 in files if name.endswith(".safetensors") or name in CHANGING_LOGITS
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def record_files(directory: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    records = {}
    for name in names:
        stat = (directory / name).stat()
        records[name] = FileRecord(sha256_file(directory / name), stat.st_size, stat.st_mtime_ns)
    return records


def write_manifest(directory: Path, source: str) -> Manifest:
    """Take the digest of every file in `directory` and put the manifest beside them, atomically."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = Manifest(source=source, files=record_files(directory, names))
    save_manifest(directory, manifest)
    return manifest


def save_manifest(directory: Path, manifest: Manifest) -> None:
    write_whole(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def read_manifest(directory: Path) -> Manifest | None:
    """None where there is none, or where it cannot be read: the model is then made again."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
