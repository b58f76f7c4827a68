"""What a target wrote, on disk: token ids with the target's own likeliest next tokens beside each, shard by shard.

A shard is one safetensors file, written beside its final place and renamed: a killed process leaves whole shards and
nothing else, and the next one goes on behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.files import replace_file

__all__ = ["Corpus", "Dialogue", "Origin", "Recipe"]

MANIFEST = "corpus.json"
FORMAT = 1


class Origin(IntEnum):
    """Where a token of a dialogue comes from."""

    GIVEN = 0  # the chat template, an opening, a prompt that was brought
    USER = 1  # the target, in the user's place
    ANSWER = 2  # the target


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides what a shard holds: a directory with another recipe is not gone on with."""

    target: str  # SHA-256 over its weights
    tokenizer: str  # fingerprint
    seed: int
    rows: int  # sequences written side by side
    context: int  # tokens of a dialogue, at most
    prompts: str = ""  # SHA-256 over the prompts brought; empty: none
    format: int = FORMAT


CHANGED_BY = {
    "target": "TARGET",
    "tokenizer": "tokenizer of TARGET",
    "seed": "--seed",
    "rows": "--device, or machine",
    "context": "TARGET",
    "prompts": "--prompts",
    "format": "release of wanspec",
}
"""What an operator gave otherwise where a field of the recipe differs."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One dialogue of n tokens; label row i is about token i + 1, and the last row is empty.

    Attributes:
        ids: shape (n,), int32.
        origins: shape (n,), uint8; see `Origin`.
        label_ids: shape (n, k), the target's likeliest next tokens, best first; as stored, uint16 where that will do.
        label_logprobs: shape (n, k), float16, at temperature 1; minus infinity where there is no label.
    """

    kind: str
    temperature: float
    ids: NDArray[np.int32]
    origins: NDArray[np.uint8]
    label_ids: NDArray[np.int32 | np.uint16]
    label_logprobs: NDArray[np.float16]

    @property
    def generated(self) -> int:
        return int(np.count_nonzero(self.origins))


class Corpus:
    """The shards under `directory`, which is not touched before something is to be written.

    Raises:
        ConfigError: the directory holds something else, or was made by another recipe.
    """

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        self.directory = directory
        self.recipe = recipe
        self._check()

    @property
    def shards(self) -> list[Path]:
        """Those that are there now: another run may add to them.

        Raises:
            ConfigError: one in the middle is missing.
        """
        found = sorted(self.directory.glob("shard-*.safetensors"))
        for number, shard in enumerate(found):
            if shard.name != _shard_name(number):
                raise ConfigError(
                    f"{self.directory} lacks {_shard_name(number)}: put it back, or delete the shards after it, then "
                    "repeat"
                )
        return found

    def _check(self) -> None:
        manifest = self.directory / MANIFEST
        if not manifest.is_file():
            there = self.directory
            if there.exists() and (not there.is_dir() or any(file.name[0] != "." for file in there.iterdir())):
                raise ConfigError(f"{self.directory} holds something else: name an empty --out")
            return
        try:
            found = msgspec.json.decode(manifest.read_bytes(), type=Recipe)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{manifest} is not ours or damaged ({error}): name another --out") from error
        if found != self.recipe:
            other = [f for f in Recipe.__struct_fields__ if getattr(found, f) != getattr(self.recipe, f)]
            raise ConfigError(
                f"{self.directory} was written with another {', '.join(dict.fromkeys(CHANGED_BY[f] for f in other))}: "
                "repeat the command that began it, or name another --out"
            )

    def begin(self) -> None:
        """Claim the directory for this recipe.

        Raises:
            ConfigError: the disk is full, or not to be written to.
        """
        if not (self.directory / MANIFEST).is_file():
            replace_file(self.directory / MANIFEST, msgspec.json.format(msgspec.json.encode(self.recipe)))

    def generated(self) -> int:
        """Tokens the target wrote, over all shards."""
        return sum(self._heading(shard).generated for shard in self.shards)

    def __len__(self) -> int:
        """Dialogues, over all shards."""
        return sum(len(self._heading(shard).kinds) for shard in self.shards)

    def append(self, dialogues: Sequence[Dialogue]) -> None:
        """Store the next shard, of at least one dialogue.

        Raises:
            ConfigError: the disk is full, or not to be written to.
        """
        from safetensors.numpy import save

        vocabulary = max((int(d.label_ids.max(initial=0)) for d in dialogues), default=0)
        arrays = {
            "ids": np.concatenate([d.ids for d in dialogues]),
            "origins": np.concatenate([d.origins for d in dialogues]),
            "lengths": np.array([len(d.ids) for d in dialogues], np.int64),
            "temperatures": np.array([d.temperature for d in dialogues], np.float32),
            "label_ids": np.concatenate([d.label_ids for d in dialogues]).astype(
                np.uint16 if vocabulary < 2**16 else np.int32
            ),
            "label_logprobs": np.concatenate([d.label_logprobs for d in dialogues]),
        }
        metadata = {
            "kinds": ",".join(d.kind for d in dialogues),
            "generated": str(sum(d.generated for d in dialogues)),
        }
        path = self.directory / _shard_name(len(self.shards))
        replace_file(path, save(arrays, metadata))

    def dialogues(self, *, tokens: int | None = None) -> Iterator[Dialogue]:
        """In the order they were scripted: all, or those of the first shards that hold `tokens` generated tokens.

        Raises:
            ConfigError: a shard is damaged.
        """
        seen = 0
        for shard in self.shards:
            if tokens is not None and seen >= tokens:
                return
            seen += self._heading(shard).generated
            yield from self._load(shard)

    def _load(self, shard: Path) -> list[Dialogue]:
        from safetensors import SafetensorError, safe_open

        kinds = self._heading(shard).kinds
        try:
            with safe_open(shard, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            ends = np.cumsum(arrays["lengths"])
            dialogues = []
            for i, (kind, end) in enumerate(zip(kinds, ends, strict=True)):
                own = slice(int(end - arrays["lengths"][i]), int(end))
                dialogues.append(
                    Dialogue(
                        kind=kind,
                        temperature=float(arrays["temperatures"][i]),
                        ids=arrays["ids"][own],
                        origins=arrays["origins"][own],
                        label_ids=arrays["label_ids"][own],
                        label_logprobs=arrays["label_logprobs"][own],
                    )
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise _damaged(shard, error) from error
        return dialogues

    def _heading(self, shard: Path) -> _Heading:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(shard, framework="np") as file:
                found = file.metadata() or {}
            return _Heading(tuple(found["kinds"].split(",")), int(found["generated"]))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise _damaged(shard, error) from error


@dataclass(frozen=True, slots=True)
class _Heading:
    """What a shard says of itself without being read."""

    kinds: tuple[str, ...]  # one for each dialogue
    generated: int


def _shard_name(number: int) -> str:
    return f"shard-{number:05}.safetensors"


def _damaged(shard: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{shard} is damaged ({error}): delete it and the shards after it, then repeat")
