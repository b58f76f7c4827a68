"""What a real pair of models did, position by position: the simulator's link to the world.

A file of JSON lines. The first says of what the recording is (`Header`), each further one holds an answer (`Answer`).
One file for each temperature and seed, because both decide how often the pair agrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.simulation.laws import CANDIDATES, Judged
from wanspec_p2p.simulation.pacing import Measured
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX

__all__ = [
    "SHIPPED",
    "Answer",
    "Header",
    "RecordedModel",
    "Recording",
    "check_shipped",
    "read_recording",
    "shipped",
    "write_recording",
]

SHIPPED = {0.0: "smollm2-135m.smollm2-draft.t0.s0.jsonl", 0.8: "smollm2-135m.smollm2-draft.t0.8.s0.jsonl"}
"""Recordings that come with the package, by temperature."""

Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Id: TypeAlias = Annotated[int, Meta(ge=0, lt=2**31)]
Confidence: TypeAlias = Annotated[int, Meta(ge=0, le=CONFIDENCE_MAX)]
Line = TypeVar("Line")


class RecordedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the pair, and how fast it was."""

    name: str
    digest: Sha256
    engine: str
    seconds: tuple[tuple[int, float], ...]  # (rows, median of passes), rows ascending

    def __post_init__(self) -> None:
        try:
            self.cost()
        except ValueError as error:
            raise ValueError(f"`seconds`: {error}") from error

    def cost(self) -> Measured:
        return Measured(self.seconds)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["wanspec recording 1"]
    target: RecordedModel
    drafter: RecordedModel
    tokenizer: Sha256  # fingerprint; the pair shares it
    temperature: Annotated[float, Meta(ge=0, le=100)]
    seed: int
    machine: str  # in words
    answers: Annotated[int, Meta(ge=0)]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One list entry for each position of an answer; the drafter saw everything before it."""

    prompt: str  # id in the file of prompts
    tokens: tuple[Id, ...]  # the target's
    candidates: tuple[Annotated[tuple[Id, ...], Meta(max_length=CANDIDATES)], ...]  # the drafter's, best first
    confidences: tuple[Confidence, ...]

    def __post_init__(self) -> None:
        for key, values in (("candidates", self.candidates), ("confidences", self.confidences)):
            if len(values) != len(self.tokens):
                raise ValueError(f"`{key}` has {len(values)} positions, `tokens` has {len(self.tokens)}")
        if any(len(set(own)) != len(own) for own in self.candidates):
            raise ValueError("`candidates` names the same token twice at one position")


@dataclass(frozen=True, slots=True)
class Recording:
    """At least one position."""

    header: Header
    answers: tuple[Answer, ...]

    def judged(self) -> tuple[Judged, ...]:
        """Every position, in the order of the file."""
        return tuple(
            Judged(confidence, candidates.index(token) + 1 if token in candidates else 0, len(candidates))
            for answer in self.answers
            for token, candidates, confidence in zip(answer.tokens, answer.candidates, answer.confidences, strict=True)
        )


def check_shipped(temperature: float) -> None:
    """Raises:
    ValueError: no recording at that temperature comes with the package.
    """
    if temperature not in SHIPPED:
        there = " and ".join(f"{one:g}" for one in SHIPPED)
        raise ValueError(f"the recordings that come with the package are at {there}, not at {temperature:g}")


def shipped(temperature: float = 0.0) -> Recording:
    """Of SmolLM2-135M and its drafter, made with `wanspec record` on prompts of our own."""
    return read_recording(resources.files("wanspec_p2p.simulation") / "data" / SHIPPED[temperature])


def write_recording(path: Path, recording: Recording) -> None:
    """Put it at `path`, whole or not at all.

    Raises:
        ConfigError: the disk is full, or not to be written to.
    """
    encode = msgspec.json.Encoder().encode
    lines = [encode(line) + b"\n" for line in (recording.header, *recording.answers)]
    replace_file(path, b"".join(lines), again="repeat the command")


def read_recording(file: Path | Traversable, *, tokenizer: str | None = None) -> Recording:
    """Read strictly: what is not exactly a recording is none.

    Args:
        tokenizer: fingerprint that it must be of; None takes any.

    Raises:
        ConfigError: one line with the file and the key at fault.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"the recording {file} cannot be read: {error.strerror}") from error
    if not lines:
        raise ConfigError(f"the recording {file} is empty: its first line should be a header with a `format`")
    header = _line(file, 1, lines[0], Header)
    if tokenizer is not None and header.tokenizer != tokenizer:
        raise ConfigError(
            f"the recording {file}, line 1: `tokenizer` is {header.tokenizer[:8]}…, not {tokenizer[:8]}…: "
            "its token ids mean something else; record a pair that has this tokenizer"
        )
    answers = tuple(_line(file, number, line, Answer) for number, line in enumerate(lines[1:], 2))
    if len(answers) != header.answers:
        raise ConfigError(
            f"the recording {file} is damaged: `answers` in line 1 is {header.answers}, and {len(answers)} follow"
        )
    if not any(answer.tokens for answer in answers):
        raise ConfigError(f"the recording {file} is empty: no answer has `tokens`")
    return Recording(header, answers)


def _line(file: Path | Traversable, number: int, line: bytes, kind: type[Line]) -> Line:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recording {file}, line {number}, is not valid: {error}") from error
