"""Directories that are made once, whoever starts at the same time and whoever is killed on the way."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from wanspec_p2p.errors import ModelError
from wanspec_p2p.locking import file_lock
from wanspec_p2p.models.digests import Manifest, read_manifest, record_files, save_manifest, write_manifest
from wanspec_p2p.models.pull import Progress

__all__ = ["ModelStore"]


class ModelStore:
    """The made models under `root`, one directory each with its manifest.

    Args:
        progress: told when another process is waited for.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self._progress = progress

    def ready(self, name: str, source: str) -> bool:
        manifest = read_manifest(self.root / name)
        return manifest is not None and manifest.source == source

    def obtain(self, name: str, source: str, make: Callable[[Path], None]) -> tuple[Path, Manifest]:
        """The directory `name`, made by `make(directory)` under a lock if it is not there, or was made from another
        `source`: a release may bring a better model under the same name.

        Size and time of every file are compared each time, and its digest where they changed.

        Raises:
            DigestMismatch: a file is not what it was made as.
            ModelError: a file is gone; or what `make` raises, with nothing left behind.
        """
        directory = self.root / name
        manifest = read_manifest(directory)
        if manifest is None or manifest.source != source or any(manifest.changed(directory)):
            waiting = f"wait for another process that prepares {name}"
            with file_lock(self.root / f".{name}.lock", lambda: self._progress(waiting, 0, 0)):
                manifest = read_manifest(directory)
                if manifest is None or manifest.source != source:
                    manifest = self._make(directory, source, make)
                elif any(manifest.changed(directory)):
                    manifest = _recheck(directory, manifest)
        return directory, manifest

    def _make(self, directory: Path, source: str, make: Callable[[Path], None]) -> Manifest:
        """Build beside the final place and rename, so that a killed process leaves nothing half-made there."""
        self.root.mkdir(parents=True, exist_ok=True)
        for stale in self.root.glob(f".{directory.name}.partial-*"):
            shutil.rmtree(stale)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=self.root))
        try:
            make(partial)
            manifest = write_manifest(partial, source)
            if directory.exists():  # made from another source; or without a manifest: not ours, or damaged
                shutil.rmtree(directory)
            partial.chmod(0o755)
            partial.rename(directory)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ModelError(f"{directory.name} could not be stored in {self.root}: {error}") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return manifest


def _recheck(directory: Path, manifest: Manifest) -> Manifest:
    """A file was touched: its content must be what it was. Its new time is remembered, so that it is asked once."""
    manifest.verify(directory, manifest.changed(directory))
    confirmed = Manifest(manifest.source, record_files(directory, manifest.files))
    save_manifest(directory, confirmed)
    return confirmed
