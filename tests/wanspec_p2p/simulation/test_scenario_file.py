from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import Measurement
from wanspec_p2p.errors import ConfigError, ExitCode
from wanspec_p2p.simulation.load_map import load_map
from wanspec_p2p.simulation.load_map import scenario as written
from wanspec_p2p.simulation.recording import SHIPPED, shipped
from wanspec_p2p.simulation.scenario import LawOf, Observed, Scenario
from wanspec_p2p.simulation.scenario_file import MAX_BYTES, judged, read_scenario
from wanspec_p2p.simulation.wan import Wan

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
MIDNIGHT = 1_800_057_600.0


def read(folder: Path, text: str) -> Scenario:
    file = folder / "s.toml"
    file.write_text(text, encoding="utf-8")
    return read_scenario(file)


def line(folder: Path, text: str) -> str:
    """What is said of a file, without its name."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    said = str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE and said.isprintable()
    return said.removeprefix(f"{folder / 's.toml'}: ")


def test_an_empty_file_is_the_reference(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Scenario()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[wan]\nrtt_ms = -5", "wan.rtt_ms: expected a number >= 0.0"),
        ("[wan]\nrtt_ms = nan", "wan.rtt_ms: expected a number >= 0.0"),
        ("[wan]\nstall_chance = 1.0", "wan.stall_chance: expected a number < 1.0"),
        ("[wan]\nbandwidth = 0", "wan.bandwidth: expected a number > 0.0"),
        ("speed = 3", "speed: there is no such key"),
        ("[churn]\nloss = 3", "churn.loss: there is no such key"),
        ('"a\\nb" = 3', "a\N{REPLACEMENT CHARACTER}b: there is no such key"),
        ("tokens = '256'", "tokens: expected a whole number, got a text"),
        ("tokens = true", "tokens: expected a whole number, got true or false"),
        ("tokens = 2.5", "tokens: expected a whole number, got a number"),
        ("[target]\npass_ms = 0", "target.pass_ms: expected a number >= 0.001"),
        ("[drafter]\npass_ms = 1e-300", "drafter.pass_ms: expected a number >= 0.001"),
        ("region = 3", "region: expected a list, got a whole number"),
        ("[[region]]\nrtt_ms = 3", "region[0].name: is missing"),
        ("[[region]]\nname = 'a'\n[[region]]\nname = 'b'\nnodes = 0", "region[1].nodes: expected a whole number >= 1"),
        (
            "[[region]]\nname = 'a'\ndelay_ms = 3\nrtt_ms = 3",
            "region[0].rtt_ms: `delay_ms` says that already; leave one out",
        ),
        ("[[region]]\nname = 'a'\ndelay_ms = 3\nload = [1]", "region[0].load: expected a list of length >= 24"),
        ("[law]\nkind = 'lucky'", "law.kind: invalid enum value 'lucky'"),
        ("[law]\nranks = [0.9, 0.2, 0, 0, 0]", "law.ranks: the probabilities of ranks sum to 1, not to 1.1"),
        ("[law]\nranks = [0.5, 0.5]", "law.ranks: ranks are 5 probabilities: of rank 1 to 4, and of none"),
        ("[law]\nranks = [-1, 2, 0, 0, 0]", "law.ranks[0]: expected a number >= 0.0"),
        ("[law]\ntemperature = 0.8", "law.temperature: only for kind = 'calibrated' or 'recorded'"),
        (
            "[law]\nkind = 'recorded'\ntemperature = 1",
            "law.temperature: the recordings that come with the package are at 0 and 0.8, not at 1",
        ),
        ("[law]\nkind = 'recorded'\ntemperature = 'hot'", "law.temperature: expected a number, got a text"),
        ("[adversaries]\nlying = 3", "adversaries: 3 of 2 nodes"),
        ("[wan]\njitter = 'much'", "wan.jitter: expected a number, got a text"),
        ("wan = []", "wan: expected a table, got a list"),
        (
            "[observed]\nsynthetic = true\nbegun = 3",
            "observed.begun: expected a date with time and zone, got a whole number",
        ),
        (f"{'k' * 2000} = 3", f"{'k' * 500}…"),
        ("drafters = 17", "drafters: expected a whole number <= 16"),
        ("drafters = 5", "drafters: 5 of 2 nodes"),
        ("[observed]\nsynthetic = 1", "observed.synthetic: expected true or false, got a whole number"),
        ("tokens = ", "is not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    assert line(tmp_path, text) == said


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read: No such file"):
        read_scenario(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_scenario(tmp_path)
    assert line(tmp_path, "#" * (MAX_BYTES + 1)) == f"is no scenario: it has more than {MAX_BYTES} bytes"
    assert line(tmp_path, "tokens = " + "9" * 5000).startswith("is not valid TOML: ")
    assert line(tmp_path, "a = " + "[" * 100_000).startswith("is not valid TOML: ")
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not valid TOML: 'utf-8'"):
        read_scenario(tmp_path / "b.toml")


def recording(folder: Path, *, positions: int = 3) -> str:
    """A file with so many positions; its tokenizer's fingerprint."""
    whole = shipped()
    tokens = whole.answers[0]
    cut = msgspec.structs.replace(
        tokens,
        tokens=tokens.tokens[:positions],
        candidates=tokens.candidates[:positions],
        confidences=tokens.confidences[:positions],
    )
    lines = [msgspec.structs.replace(whole.header, answers=1), cut]
    (folder / "pair.jsonl").write_bytes(b"\n".join(msgspec.json.encode(one) for one in lines))
    return whole.header.tokenizer


def test_a_recording_lies_beside_the_file(tmp_path: Path) -> None:
    tokenizer = recording(tmp_path)
    found = read(tmp_path, f"[law]\nkind = 'recorded'\nrecording = 'pair.jsonl'\ntokenizer = '{tokenizer}'")
    assert found.law.recording == str(tmp_path / "pair.jsonl")
    assert judged(found.law) == shipped().judged()[:3]
    assert judged(LawOf()) == () and judged(LawOf(kind="recorded")) == shipped().judged()


@pytest.mark.parametrize("temperature", SHIPPED)
def test_a_shipped_recording_is_chosen_by_its_temperature(tmp_path: Path, temperature: float) -> None:
    found = read(tmp_path, f"[law]\nkind = 'recorded'\ntemperature = {temperature:g}")
    assert judged(found.law) == shipped(temperature).judged()


def test_a_recording_that_is_none_or_of_others_is_said_with_its_key(tmp_path: Path) -> None:
    law = "[law]\nkind = 'calibrated'\n"
    named, pair = law + "recording = 'pair.jsonl'\n", tmp_path / "pair.jsonl"
    assert line(tmp_path, named) == f"law.recording: the recording {pair} cannot be read: No such file or directory"
    recording(tmp_path, positions=0)
    assert line(tmp_path, named) == f"law.recording: the recording {pair} is empty: no answer has `tokens`"
    pair.write_bytes(b"")
    assert line(tmp_path, named).startswith(f"law.recording: the recording {pair} is empty: its first line")
    recording(tmp_path)
    other = f"tokenizer = '{'0' * 64}'\n"
    assert "`tokenizer` is" in line(tmp_path, named + other)
    assert line(tmp_path, named + other).startswith("law.recording: ")
    assert line(tmp_path, law + other).startswith("law.tokenizer: the recording that comes with the package has")


def test_what_probe_writes_is_a_scenario(tmp_path: Path) -> None:
    endpoints = [ProbedEndpoint(name, f'the "{name}"', "https://x.example/v1", "big") for name in ("west", "east")]
    measured = [
        Measurement(name, MIDNIGHT + hour * 3600.0, 0.05 * (1 + hour % 3), 0.01, 8)
        for name in ("west", "east")
        for hour in range(24)
    ]
    found = read(tmp_path, written(load_map(endpoints, measured)))
    assert isinstance(found.observed, Observed) and found.observed.synthetic is False
    assert [region.name for region in found.region] == ['the "west"', 'the "east"']
    assert found.ways == [Wan.observed(0.1, 0.0), Wan.observed(0.1, 0.0)]
    at_one = msgspec.structs.replace(found, hour=0)
    assert at_one.ways == [Wan.observed(0.05, 0.0), Wan.observed(0.05, 0.0)]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_examples_are_scenarios(file: Path) -> None:
    assert read_scenario(file).ways


KEYS = st.sampled_from(
    ["tokens", "nodes", "drafters", "hour", "wan", "region", "law", "churn", "adversaries", "target", "drafter"]
    + ["rtt_ms", "name", "kind", "ranks", "recording", "lying", "load", "delay_ms", "observed", "begun"]
)
LEAVES = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.integers(0, 3)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["iid", "recorded"])
)
TABLES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def toml(value: Any) -> str:
    """Inline TOML: JSON, but for tables and what JSON lacks."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(own)}" for key, own in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case float():
            return repr(value)  # inf and nan as TOML has them
        case _:
            return json.dumps(value)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, TABLES, max_size=4))
def test_any_file_is_a_scenario_or_one_line(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.toml"
        file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in document.items()), encoding="utf-8")
        try:
            found = read_scenario(file)
        except ConfigError as error:
            assert str(error).startswith(f"{file}: ") and str(error).isprintable()
        else:
            assert found.per_session <= len(found.ways)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        dict,
        tokens=st.integers(1, 16_384),
        seeds=st.integers(1, 1000),
        nodes=st.integers(2, 256),
        drafters=st.integers(0, 2),
        wan=st.fixed_dictionaries(
            {
                "rtt_ms": st.floats(0, 10_000),
                "jitter": st.floats(0, 100),
                "stall_chance": st.floats(0, 1, exclude_max=True),
                "bandwidth": st.floats(1, 1e9),
            }
        ),
        churn=st.fixed_dictionaries({"loss_per_round": st.floats(0, 1), "silently": st.booleans()}),
        adversaries=st.fixed_dictionaries({"lying": st.integers(0, 1), "far": st.integers(0, 1)}),
    )
)
def test_what_is_in_range_comes_out_as_it_was_written(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s.toml"
        file.write_text("\n".join(f"{key} = {toml(value)}" for key, value in document.items()), encoding="utf-8")
        found = msgspec.to_builtins(read_scenario(file))
    for key, value in document.items():
        assert {**found[key], **value} == found[key] if isinstance(value, dict) else found[key] == value
