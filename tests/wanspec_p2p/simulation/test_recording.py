from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.laws import CalibratedLaw, Judged, RecordedLaw, Text
from wanspec_p2p.simulation.recording import (
    SHIPPED,
    Answer,
    Header,
    RecordedModel,
    Recording,
    check_shipped,
    read_recording,
    shipped,
    write_recording,
)

TOKENIZER = "ab" * 32
HEADER = Header(
    format="wanspec recording 1",
    target=RecordedModel("big", "cd" * 32, "engine 1", ((1, 0.03), (8, 0.04))),
    drafter=RecordedModel("small", "ef" * 32, "engine 1", ((1, 0.005),)),
    tokenizer=TOKENIZER,
    temperature=0.0,
    seed=3,
    machine="somewhere",
    answers=2,
)
ANSWERS = (
    Answer("first", (5, 6, 7), ((5, 1, 2, 3), (1, 2, 6, 3), (1, 2, 3, 4)), (127, 64, 0)),
    Answer("second", (8, 9), ((7, 8), ()), (20, 0)),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pair.jsonl"
    write_recording(path, Recording(HEADER, ANSWERS))
    return path


def test_a_recording_is_read_as_it_was_written(file: Path) -> None:
    recording = read_recording(file, tokenizer=TOKENIZER)
    assert recording == Recording(HEADER, ANSWERS)
    assert recording.judged() == (
        Judged(127, 1, 4),
        Judged(64, 3, 4),
        Judged(0, 0, 4),
        Judged(20, 2, 2),
        Judged(0, 0, 0),
    )
    assert recording.header.target.cost().seconds(8) == 0.04


def test_a_recording_is_written_whole_or_not_at_all(file: Path, tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    with pytest.raises(ConfigError, match=r"could not be written .*: mend that and repeat the command$"):
        write_recording(file / "below", Recording(HEADER, ANSWERS))


def refused(file: Path, **wanted: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_recording(file, **wanted)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recording_of_another_tokenizer_is_refused(file: Path) -> None:
    fault = refused(file, tokenizer="99" * 32)
    assert "line 1: `tokenizer` is abababab…, not 99999999…" in fault


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty: its first line should be a header"), (b"\n\n", "line 1"), (b"\x00\xff", "line 1, is not valid")],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)
    assert fault in refused(file)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "nowhere")
    assert "cannot be read: Is a directory" in refused(tmp_path)


def change(line: int, key: str, value: Any) -> Callable[[list[Any]], None]:
    def changed(lines: list[Any]) -> None:
        lines[line][key] = value

    return changed


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change(0, "format", "wanspec recording 2"), "line 1, is not valid: Invalid enum value"),
        (change(0, "temperature", "0"), "`$.temperature`"),
        (change(0, "temperature", -1), "`$.temperature`"),
        (change(0, "tokenizer", "short"), "`$.tokenizer`"),
        (change(0, "other", 1), "unknown field `other`"),
        (change(0, "answers", 3), "`answers` in line 1 is 3, and 2 follow"),
        (change(0, "target", {"name": "n", "digest": "cd" * 32, "engine": "e", "seconds": []}), "`$.target`"),
        (change(0, "target", {"name": "n", "digest": "cd" * 32, "engine": "e", "seconds": [[1, 0]]}), "`seconds`:"),
        (change(1, "tokens", [1, 2, -3]), "line 2, is not valid: Expected `int` >= 0 - at `$.tokens[2]`"),
        (change(1, "tokens", [1, 2]), "line 2, is not valid: `candidates` has 3 positions, `tokens` has 2"),
        (change(2, "confidences", [20]), "line 3, is not valid: `confidences` has 1 positions, `tokens` has 2"),
        (change(2, "confidences", [20, 128]), "`$.confidences[1]`"),
        (change(2, "candidates", [[1, 2, 3, 4, 5], []]), "`$.candidates[0]`"),
        (change(2, "candidates", [[1, 1], []]), "`candidates` names the same token twice"),
        (lambda lines: lines[1].pop("tokens"), "missing required field `tokens`"),
        (lambda lines: lines.pop(), "`answers` in line 1 is 2, and 1 follow"),
        (lambda lines: lines.pop(0), "line 1, is not valid"),
    ],
)
def test_a_malformed_recording_is_refused_by_file_line_and_key(
    file: Path, change: Callable[[list[Any]], None], fault: str
) -> None:
    lines = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    change(lines)
    file.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    assert fault in refused(file)


@pytest.mark.parametrize("answers", [(), (Answer("said nothing", (), (), ()),)])
def test_an_empty_recording_is_refused(tmp_path: Path, answers: tuple[Answer, ...]) -> None:
    file = tmp_path / "empty.jsonl"
    write_recording(file, Recording(msgspec.structs.replace(HEADER, answers=len(answers)), answers))
    assert refused(file).endswith("is empty: no answer has `tokens`")


@pytest.mark.parametrize("temperature", SHIPPED)
def test_the_recordings_that_come_with_the_package_can_be_used(temperature: float) -> None:
    check_shipped(temperature)
    recording = shipped(temperature)
    judged = recording.judged()
    assert recording.header.temperature == temperature and len(recording.answers) == 12
    assert len(judged) > 800 and all(len(own) == 4 for answer in recording.answers for own in answer.candidates)
    right = [position for position in judged if position.rank == 1]
    assert 0.3 < len(right) / len(judged) < 0.9
    surer = sorted(judged, key=lambda position: position.confidence)[len(judged) // 2 :]
    assert sum(position.rank == 1 for position in surer) > 0.6 * len(right), "confidence foresees agreement"
    assert recording.header.target.cost().seconds(64) > recording.header.drafter.cost().seconds(1)
    text = Text(0)
    assert len(CalibratedLaw(text, judged).guess(text.start).tokens) == 4
    assert len(RecordedLaw(text, judged).guess(text.start).tokens) == 4


def test_what_does_not_come_with_the_package_is_said_beside_what_does() -> None:
    with pytest.raises(ValueError, match=r"^the recordings that come with the package are at 0 and 0\.8, not at 0\.5$"):
        check_shipped(0.5)
