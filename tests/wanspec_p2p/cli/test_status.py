from __future__ import annotations

import json
from typing import Any

import pytest
from rich.cells import cell_len

from tests.support.fake_coordinator import FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import status
from wanspec_p2p.client import Client
from wanspec_p2p.errors import ExitCode, Unreachable


def test_status_shows_targets_and_nodes(run: Run) -> None:
    fake = FakeCoordinator()
    with serving(fake) as url:
        code, out, err = run("status", "--coordinator", url)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        headings = ["target", "id", "model", "state", "heard", "sessions", "queued", "drafters", "owner", "site"]
        assert lines[0].split() == headings
        assert lines[1].split() == ["big", "tttttttt", "smollm2-135m", "active", "1", "0", "2"]
        assert lines[4].split() == ["lab-a", "aaaaaaaa", "smollm2-draft", "active", "1", "default", "ada", "north"]


def test_who_is_silent_or_hung_can_be_seen(run: Run, monkeypatch: pytest.MonkeyPatch, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        state = json.loads(run("status", "--coordinator", url, "--json")[1])
        target, node = state["targets"][0], state["nodes"][0]
        target |= {"hung": True, "silent_seconds": 3.4}
        node |= {"state": "silent", "silent_seconds": 7.9}
        monkeypatch.setattr(Client, "state", lambda client: state)
        for how in ((), ("--watch", "2")):
            lines = [line.split() for line in run("status", "--coordinator", url, *how)[1].splitlines()]
            assert ["not", "answering", "3", "s", "ago"] in [line[3:8] for line in lines if line[:1] == ["big"]]
            assert ["silent", "8", "s", "ago"] in [line[3:7] for line in lines if line[:1] == ["lab-a"]]
    target |= {"hung": False}
    with serving(FakeCoordinator()) as url:
        lines = [line.split() for line in run("status", "--coordinator", url)[1].splitlines()]
    assert ["active", "3", "s", "ago"] in [line[3:7] for line in lines if line[:1] == ["big"]]


def test_json_is_the_state_as_it_came(run: Run) -> None:
    with serving(FakeCoordinator()) as url:
        _, out, _ = run("status", "--coordinator", url, "--json")
    assert [node["name"] for node in json.loads(out)["nodes"]] == ["lab-a", "lab-b"]


def test_other_peoples_words_are_shown_as_they_are_and_no_more(run: Run) -> None:
    fake = FakeCoordinator(node_name="[red]\x1b[2Jx", unmatched="its tokenizer is another")
    with serving(fake) as url:
        _, out, _ = run("status", "--coordinator", url)
    assert "[red]\ufffd[2Jx" in out and "its tokenizer is another" in out and "\x1b" not in out


def test_an_empty_network_is_shown_as_one(run: Run) -> None:
    fake = FakeCoordinator(empty=True)
    with serving(fake) as url:
        _, out, _ = run("status", "--coordinator", url)
    assert [line.strip() for line in out.splitlines()][1::3] == ["none", "none", "none"]


def pair(target: str = "big", drafter: str = "small", **changes: Any) -> dict[str, Any]:
    alphas = {1: 0.5, 2: 0.401, 3: 0.3, 7: 0.1}
    return {
        "target": {"name": target, "digest": "b" * 64},
        "drafter": {"name": drafter, "digest": "d" * 64},
        "reached": 1_204_332,
        "right": 540_000,
        "alpha": 0.4484,
        "recent": {"reached": 0, "right": 0, "alpha": None},
        "by_depth": [{"depth": depth, "reached": 1, "right": 1, "alpha": a} for depth, a in alphas.items()],
        "misfit": None,
    } | changes


def test_acceptance_of_each_pair_of_models_is_shown(run: Run) -> None:
    recent = {"reached": 20, "right": 5, "alpha": 0.25}
    misfit = "recent acceptance 0.25, before 0.45: this drafter may no longer fit its target"
    fake = FakeCoordinator(acceptance=[pair(), pair(drafter="other", recent=recent, by_depth=[], misfit=misfit)])
    with serving(fake) as url:
        _, out, _ = run("status", "--coordinator", url)
    lines = [line.split() for line in out.splitlines()[7:]]
    assert lines == [
        ["target", "model", "drafter", "model", "positions", "α", "recent", "α₁", "α₂", "α₃"],
        ["bbbbbbbb", "big", "dddddddd", "small", "1204332", "0.45", "–", "0.50", "0.40", "0.30"],
        ["bbbbbbbb", "big", "dddddddd", "other", "1204332", "0.45", "0.25", "–", "–", "–"],
        f"dddddddd other for bbbbbbbb big: {misfit}".split(),
    ]


def test_names_of_models_are_words_and_the_table_fits_100_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    hostile = pair("巨" * 128, "[red]\x1b[2J\nwanspec: x[/]" + "x" * 100, misfit="[bold]odd\nnode  \x1b]0;x")
    with serving(FakeCoordinator(acceptance=[hostile, pair()])) as url:
        _, out, _ = run("status", "--coordinator", url)
    table = out.splitlines()[7:10]
    assert all(cell_len(line) <= 100 for line in table)
    assert "bbbbbbbb 巨巨巨巨巨巨巨巨 … " in table[1] and "dddddddd [red]\ufffd[2J wanspec…" in table[1]
    assert table[1].split()[-6:] == ["1204332", "0.45", "–", "0.50", "0.40", "0.30"]
    assert out.splitlines()[10].endswith(": [bold]odd node \ufffd]0;x") and len(out.splitlines()) == 11
    assert "\x1b" not in out


def test_an_older_coordinators_state_has_no_acceptance(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCoordinator(acceptance=None)
    with serving(fake) as url:
        code, out, err = run("status", "--coordinator", url)
    assert (code, err, out.splitlines()[-1].strip()) == (0, "", "none")


def test_the_error_of_predicted_round_trips_is_shown_once_some_were_checked(run: Run) -> None:
    fake = FakeCoordinator()
    for predictions, said in (
        (None, False),
        ({"checked": 0, "median_relative_error": None}, False),
        ({"checked": 12, "median_relative_error": 0.1834}, True),
    ):
        fake.rtt_predictions = predictions
        with serving(fake) as url:
            code, out, _ = run("status", "--coordinator", url)
        assert code == 0
        line = "round trips predicted before they were measured: 12, half of them within 18%"
        assert (line in out.splitlines()) is said


# Again and again ------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are over at once; after the third somebody presses Ctrl-C."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    return waited


def test_watching_prints_the_state_until_it_is_interrupted(run: Run, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("status", "--coordinator", url, "--watch", "5", "--json")
    assert (code, looks) == (ExitCode.INTERRUPTED, [5.0, 5.0, 5.0])
    assert [set(json.loads(line)) for line in out.splitlines()] == [{"nodes", "targets", "acceptance"}] * 3


def test_watching_waits_for_a_coordinator_that_is_away(
    run: Run, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FakeCoordinator()) as url:
        state = json.loads(run("status", "--coordinator", url, "--json")[1])
    answers = iter([state, Unreachable("nobody answers"), state])

    def look(client: Client) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Client, "state", look)
    code, out, _ = run("status", "--coordinator", url, "--watch", "1")
    assert (code, next(answers, None)) == (ExitCode.INTERRUPTED, None)
    assert "lab-a" in out


def test_watching_what_is_not_there_ends_at_once(run: Run, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        pass
    assert run("status", "--coordinator", url, "--watch", "1")[0] == ExitCode.UNREACHABLE
    assert looks == []
