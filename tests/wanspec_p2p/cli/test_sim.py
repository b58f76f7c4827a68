from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.simulation.faults import KINDS, LAWS, Schedule
from wanspec_p2p.simulation.reference import Figures, Setting
from wanspec_p2p.simulation.trace import ErrorsLogged
from wanspec_p2p.types import Sampling

LISTS = {
    "no_local_latency_ratio",
    "best_latency_ratio",
    "offload_at_equal_latency",
    "shipped_latency_ratio",
    "shipped_latency_ratio_error",
    "shipped_offload",
    "shipped_node_passes_per_token",
}


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Setting, int]]:
    """What was asked for; nothing is simulated."""
    asked: list[tuple[Setting, int]] = []

    def play(setting: Setting, seed: int) -> Figures:
        asked.append((setting, seed))
        passes = 0 if not setting.local else setting.tokens
        return Figures(
            setting.tokens,
            setting.tokens * (0.010 + setting.wan.rtt),
            local_passes=passes,
            remote_passes=3 * setting.tokens,
        )

    monkeypatch.setattr("wanspec_p2p.simulation.plays.play", play)
    return asked


def test_a_real_one_in_small(run: Run) -> None:
    code, out, err = run("sim", "reference", "--quick", "--rtt", "10", "--drafters", "1", "--jobs", "1", "--json")
    assert code == ExitCode.OK, err
    report = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert report["command"] == "wanspec sim reference --quick --seeds 1 --rtt 10 --drafters 1"
    assert 0.5 < report["r1"]["best_latency_ratio"][0] <= report["r1"]["shipped_latency_ratio"][0] < 2.0


def test_the_object_for_machines(run: Run, plays: list[tuple[Setting, int]]) -> None:
    code, out, _ = run("sim", "reference", "--jobs", "1", "--json")
    assert code == ExitCode.OK
    report = json.loads(out)
    assert report["rtt_ms"] == [0, 10, 20, 30, 50, 70, 100, 150]
    for ratios in (report, report["chain_baseline"]):
        for drafters in ("r2", "r4"):
            assert set(ratios[drafters]) == LISTS
            assert {len(values) for values in ratios[drafters].values()} == {8}
    assert set(report["baselines"]) == {"tree", "chain"}
    assert report["seeds"] == 10 and {seed for _, seed in plays} == set(range(10))
    assert {setting.tokens for setting, _ in plays} == {256}
    assert len(report["date"]) == 10


def test_the_command_that_is_told_is_the_one_that_was_given(run: Run, plays: list[tuple[Setting, int]]) -> None:
    given = "--seeds 1 --verify-code 1.2345678 --rtt 0.1234567,1234.5678 --drafters 3"
    out = run("sim", "reference", "--jobs", "1", *given.split(), "--json")[1]
    assert json.loads(out)["command"] == f"wanspec sim reference {given}"


def test_the_table_for_people(run: Run, plays: list[tuple[Setting, int]]) -> None:
    code, out, err = run("sim", "reference", "--seeds", "1", "--rtt", "0, 12.5", "--drafters", "3", "--jobs", "1")
    assert (code, err) == (ExitCode.OK, "")
    lines = out.splitlines()
    assert lines[0].startswith("wanspec sim reference --seeds 1 --rtt 0,12.5 --drafters 3, 2")
    assert "tree at the target, 1 pass a round: 10.00 ms and 1.00 draft passes a token" in lines
    rows = [line.split() for line in lines if line.strip().startswith("r3")]
    assert rows[0] == ["r3", "0", "1.00", "1.00", "100%", "1.00", "(0%),", "3.0"]
    assert rows[1] == ["r3", "12.5", "2.25", "2.25", "0%", "2.25", "(0%),", "3.0"]
    assert len(rows) == 4  # against the tree, and against the chain


def test_prices_are_shown_where_they_do_not_lead(run: Run, plays: list[tuple[Setting, int]]) -> None:
    arguments = ("sim", "reference", "--rtt", "0,12.5", "--drafters", "3", "--prices", "2,0.5", "--jobs", "1")
    code, out, err = run(*arguments, "--seeds", "1")
    assert (code, err) == (ExitCode.OK, "")
    assert out.startswith("wanspec sim reference --seeds 1 --prices 2,0.5 --rtt 0,12.5 --drafters 3, ")
    at = out.splitlines().index("price 2, against the tree: latency (offload) at 0,12.5 ms")
    assert out.splitlines()[at + 1].split() == ["r3", "1.00", "(0%)", "2.25", "(0%)"]
    report = json.loads(run(*arguments, "--seeds", "1", "--json")[1])
    assert None not in report["measured"]["r3"]["price 0.5"]
    assert run(*arguments, "--seeds", "1", "--ablate")[0] == ExitCode.OK


def test_ideal_drafters_are_told_as_such(run: Run) -> None:
    arguments = ("sim", "reference", "--ideal", "--quick", "--rtt", "20", "--drafters", "2", "--jobs", "1")
    report = json.loads(run(*arguments, "--json")[1])
    assert report["ideal"] is True and set(report["r2"]) == LISTS
    assert "1 answer of each setting, calculated for ideal drafters" in run(*arguments)[1]
    for other in (("--ablate",), ("--node-code", "1"), ("--law", "recorded")):
        code, _, err = run("sim", "reference", "--ideal", *other)
        assert code == ExitCode.USAGE and other[0] in err and err.rstrip().endswith("away")


def test_mechanisms_are_judged_with_a_recorded_pair(run: Run, plays: list[tuple[Setting, int]]) -> None:
    arguments = ("sim", "reference", "--ablate", "--law", "recorded", "--rtt", "10", "--drafters", "2")
    code, out, err = run(*arguments, "--seeds", "1", "--jobs", "1", "--json")
    assert code == ExitCode.OK, err
    report = json.loads(out)
    assert "--law recorded --rtt" in report["command"]
    assert {"lanes off", "one drafter", "1 % stalls of 400 ms"} < set(report["variants"])
    assert not any("SmolLM2" in name or "first rank" in name for name in report["variants"])
    assert {setting.law for setting, _ in plays} == {"recorded"}


def test_the_recorded_pair_is_played_at_the_temperature_that_is_asked_for(
    run: Run, plays: list[tuple[Setting, int]]
) -> None:
    arguments = ("sim", "reference", "--quick", "--law", "recorded", "--rtt", "0", "--jobs", "1", "--json")
    for wanted, said in (("0.8", "--law recorded --temperature 0.8 --rtt"), ("0", "--law recorded --rtt")):
        plays.clear()
        assert said in json.loads(run(*arguments, "--temperature", wanted)[1])["command"]
        assert {(setting.law, setting.temperature) for setting, _ in plays} == {("recorded", float(wanted))}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("--law", "recorded", "--temperature", "0.5"),
            "--temperature: the recordings that come with the package are at 0 and 0.8, not at 0.5",
        ),
        (
            ("--temperature", "0"),
            "--temperature is that of a recording: give --law calibrated or recorded, or leave it away",
        ),
    ],
)
def test_a_temperature_without_a_recording_is_named(
    run: Run, plays: list[tuple[Setting, int]], arguments: tuple[str, ...], line: str
) -> None:
    assert run("sim", "reference", *arguments) == (ExitCode.USAGE, "", f"wanspec: {line}\n")
    assert not plays


def test_code_takes_what_it_is_said_to_take(run: Run, plays: list[tuple[Setting, int]]) -> None:
    arguments = ("sim", "reference", "--quick", "--rtt", "0", "--jobs", "1", "--json")
    report = json.loads(run(*arguments, "--verify-code", "2", "--draft-code", "1", "--node-code", "0.5")[1])
    assert "--verify-code 2 --draft-code 1 --node-code 0.5 --rtt" in report["command"]
    assert {(s.verify_code, s.draft_code, s.node_code) for s, _ in plays} == {(0.002, 0.001, 0.0005)}


def test_ablations_are_told_by_name(run: Run, plays: list[tuple[Setting, int]]) -> None:
    arguments = ("sim", "reference", "--ablate", "--seeds", "1", "--drafters", "2", "--jobs", "1")
    report = json.loads(run(*arguments, "--json")[1])
    assert {setting.wan.rtt for setting, _ in plays if setting.drafters} == {0.01, 0.05}
    assert set(report["variants"]["lanes off"]["r2"]) == LISTS
    assert set(report["variants"]["one drafter"]["chain_baseline"]) == {"r1"}
    assert "\nlanes off\n" in run(*arguments)[1]


@pytest.mark.parametrize(
    ("flag", "value", "line"),
    [
        ("--rtt", "10,-5", "--rtt: '-5' is not a number from 0 to 10000"),
        ("--rtt", "nan", "--rtt: 'nan' is not a number from 0 to 10000"),
        ("--rtt", "", "--rtt: '' is not a number from 0 to 10000"),
        ("--rtt", "far", "--rtt: 'far' is not a number from 0 to 10000"),
        ("--rtt", "5,5.0", "--rtt: '5.0' is named twice"),
        ("--drafters", "0", "--drafters: '0' is not a number from 1 to 16"),
        ("--drafters", "2,17", "--drafters: '17' is not a number from 1 to 16"),
        ("--drafters", "1.5", "--drafters: '1.5' is not a whole number from 1 to 16"),
        ("--drafters", "2,2", "--drafters: '2' is named twice"),
        ("--prices", "dear", "--prices: 'dear' is not a number from 0 to 3"),
        (
            "--prices",
            "0.5,0.42",
            "--prices: 0.42 is none of 0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.65,0.7,0.8,0.9,1,1.2,1.4,1.7,2,2.5,3",
        ),
    ],
)
def test_a_wrong_value_is_named(run: Run, plays: list[tuple[Setting, int]], flag: str, value: str, line: str) -> None:
    assert run("sim", "reference", flag, value) == (ExitCode.USAGE, "", f"wanspec: {line}\n")
    assert not plays


def test_an_unknown_flag_and_no_seeds_are_named(run: Run) -> None:
    for arguments, word in ((("--fast",), "--fast"), (("--seeds", "0"), "--seeds")):
        code, out, err = run("sim", "reference", *arguments)
        assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1) and word in err


def test_a_figure_is_drawn(run: Run, plays: list[tuple[Setting, int]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "wan.svg"
    code, out, err = run("sim", "reference", "--quick", "--drafters", "2", "--jobs", "1", "--figure", str(file))
    assert (code, err) == (ExitCode.OK, "") and "against the tree" in out
    assert b"<svg" in file.read_bytes()


def test_a_figure_that_cannot_be_written_costs_no_result(
    run: Run, plays: list[tuple[Setting, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wanspec_p2p.models.distill.files.write_whole", full)
    monkeypatch.setattr("wanspec_p2p.simulation.reference_figure.draw", lambda report: {"svg": b""})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    arguments = ("--quick", "--drafters", "2", "--jobs", "1", "--json", "--figure", str(tmp_path / "wan.svg"))
    code, out, err = run("sim", "reference", *arguments)
    assert code == ExitCode.USAGE and "make room" in err
    assert set(json.loads(out)["r2"]) == LISTS


def test_a_figure_that_cannot_be_is_said_before_anything_is_played(
    run: Run, plays: list[tuple[Setting, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, program, folder = str(tmp_path / "wan.svg"), tmp_path / "program", tmp_path / "map.svg"
    program.touch(mode=0o755)
    folder.mkdir()
    folder.with_name("other.png").mkdir()
    for arguments, said in (
        (("--figure", good, "--ablate"), "leave --ablate away"),
        (("--figure", "wan.png"), "must end in .svg"),
        (("--figure", str(tmp_path / "gone" / "wan.svg")), "is no folder that can be written to"),
        (("--figure", str(program / "wan.svg")), "is no folder that can be written to"),
        (("--figure", str(folder)), "map.svg is a folder"),
        (("--figure", str(folder.with_name("other.svg"))), "other.png is a folder"),
    ):
        code, out, err = run("sim", "reference", *arguments)
        assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1) and said in err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run("sim", "reference", "--figure", good)
    assert code == ExitCode.USAGE and "needs matplotlib" in err
    assert not plays


@pytest.mark.parametrize("command", ["faults", "capacity", "clients", "swarm"])
def test_a_seed_that_no_json_could_tell_is_refused(run: Run, command: str) -> None:
    code, out, err = run("sim", command, "--seed", str(2**63), "--json")
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1) and "'--seed'" in err


def schedule(seed: int, *, exact: bool = True) -> Schedule:
    """Played by nobody; the first is greedy."""
    sampling = Sampling(temperature=2.0) if seed else Sampling()
    return Schedule(seed, exact, "iid", sampling, ("honest",), events=3, judged=0, right=0, seconds=1.0)


def test_faults_that_change_no_text(run: Run) -> None:
    code, out, err = run("sim", "faults", "--count", "2", "--seed", "5", "--json")
    assert code == ExitCode.OK, err
    report = json.loads(out)
    assert (report["schedules"], report["first_seed"], report["wrong_seeds"]) == (2, 5, [])
    assert (report["laws"].keys(), report["nodes"].keys()) == (set(LAWS), set(KINDS))
    assert sum(report["laws"].values()) == 2 <= sum(report["nodes"].values())


def test_faults_are_told_with_how_answers_were_sampled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec_p2p.simulation.faults.play_faults", schedule)
    assert json.loads(run("sim", "faults", "--count", "3", "--json")[1])["sampling"] == {"greedy": 1, "sampled": 2}
    said = run("sim", "faults", "--count", "3", "--seed", "1")[1]
    assert said == "3 schedules from seed 1 (0 greedy, 3 sampled), 9 faults in 3 virtual seconds: 0 wrong\n"


def test_a_schedule_that_breaks_off_names_its_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(seed: int) -> Schedule:
        if seed == 8:
            raise ErrorsLogged("errors were logged: a session failed")
        return schedule(seed)

    monkeypatch.setattr("wanspec_p2p.simulation.faults.play_faults", play)
    code, out, err = run("sim", "faults", "--count", "3", "--seed", "7")
    assert (code, out) == (ExitCode.FAILURE, "")
    assert err == "wanspec: seed 8 could not be played to its end: errors were logged: a session failed\n"


def test_a_wrong_text_is_an_error_that_names_its_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "wanspec_p2p.simulation.faults.play_faults",
        lambda seed: schedule(seed, exact=seed != 8),
    )
    code, _, err = run("sim", "faults", "--count", "3", "--seed", "7")
    assert code == ExitCode.FAILURE
    assert "seeds 8" in err
