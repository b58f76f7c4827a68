from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rich.cells import cell_len

from tests.support.fake_coordinator import FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli import status
from wanspec_p2p.cli.findings import key_advice
from wanspec_p2p.client import Client
from wanspec_p2p.errors import ExitCode, Unauthenticated, Unreachable


def test_status_shows_targets_and_nodes(run: Run) -> None:
    fake = FakeCoordinator()
    with serving(fake) as url:
        code, out, err = run("status", "--coordinator", url)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        headings = ["target", "id", "model", "state", "heard", "sessions", "queued", "drafters"]
        assert lines[0].split() == headings, "nobody knows its owner or site"
        assert lines[1].split() == ["big", "tttttttt", "smollm2-135m", "active", "1", "0", "2"]
        assert lines[3].split() == ["node", "id", "model", "state", "heard", "sessions", "pool", "owner", "site"]
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


def test_a_key_that_is_missing_is_asked_for_in_a_commands_words(run: Run) -> None:
    with serving(FakeCoordinator(api_key="wsk-right")) as url:
        code, out, err = run("status", "--coordinator", url)
    assert (code, out) == (ExitCode.REFUSED, "") and err.count("\n") == 1
    assert err.startswith("wanspec: this key is not known: set WANSPEC_API_KEY, put api_key into [submitter]")
    assert key_advice(Unauthenticated("an API key is needed: send `Authorization: Bearer KEY`")).startswith(
        "an API key is needed: set WANSPEC_API_KEY"
    )


def test_json_is_the_state_as_it_came(run: Run) -> None:
    with serving(FakeCoordinator()) as url:
        _, out, _ = run("status", "--coordinator", url, "--json")
    assert [node["name"] for node in json.loads(out)["nodes"]] == ["lab-a", "lab-b"]


def test_other_peoples_words_are_shown_as_they_are_and_no_more(run: Run) -> None:
    fake = FakeCoordinator(node_name="[red]\x1b[2Jx", unmatched="its tokenizer is another")
    with serving(fake) as url:
        _, out, _ = run("status", "--coordinator", url)
    assert "[red]\ufffd[2Jx" in out and "\x1b" not in out
    assert "[red]\ufffd[2Jx aaaaaaaa: not used: its tokenizer is another" in out.splitlines()


def crowd(count: int, **changes: Any) -> dict[str, Any]:
    """A state with a target that does not answer and so many nodes, of which the last cannot be used."""
    peer = {"state": "active", "sessions": 1, "silent_seconds": 1.2, "owner": "unknown", "site": "unknown"} | changes
    nodes = [
        peer
        | {"id": f"{number:02d}" * 16, "name": f"lab-{number}", "pool": "default", "unmatched": None}
        | {"models": [{"name": "smollm2-135m" if number else "smollm2-draft"}]}
        for number in range(count)
    ]
    nodes[-1]["unmatched"] = "its tokenizer is not the one of any target of its pool, so that it can draft for none"
    target = peer | {"id": "t" * 32, "name": "big", "model": {"name": "smollm2-135m"}, "queued": 0, "drafters": 2}
    return {"nodes": nodes, "targets": [target | {"hung": True}], "acceptance": [pair()]}


def shown(run: Run, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], columns: int, *how: str) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(Client, "state", lambda client: state)
    return run("status", "--coordinator", "http://127.0.0.1:9", *how)[1]


def test_at_80_columns_every_peer_has_one_line_and_its_reason_another(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = crowd(3)
    state["nodes"][1] |= {"unmatched": state["nodes"][2]["unmatched"]}
    lines = shown(run, monkeypatch, state, 80).splitlines()
    assert [line.split()[:4] for line in lines[4:7]] == [
        ["lab-0", "00000000", "smollm2-draft", "active"],
        ["lab-1", "01010101", "smollm2-135m", "active"],
        ["lab-2", "02020202", "smollm2-135m", "active"],
    ]
    assert all(line.endswith("1 s ago  1         default") for line in lines[4:7])
    assert lines[7] == f"lab-1 01010101, lab-2 02020202: not used: {state['nodes'][2]['unmatched']}"
    assert lines[1].split() == ["big", "tttttttt", "smollm2-135m", "not", "answering", "1", "s", "ago", "1", "0", "2"]
    assert all(cell_len(line) <= 80 for line in lines[:7])


def test_owners_and_sites_that_have_no_room_are_said_below(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    state = crowd(2, owner="University of Somewhere", site="north")
    wide = shown(run, monkeypatch, state, 120).splitlines()
    assert wide[3].split()[-2:] == ["owner", "site"] and wide[4].split()[-2:] == ["Somewhere", "north"]
    state["nodes"][1] |= {"owner": "unknown", "site": "unknown"}
    narrow = shown(run, monkeypatch, state, 80).splitlines()
    assert narrow[4].split()[-1] == "pool"
    assert narrow[7] == "lab-0 00000000: University of Somewhere, north"
    assert narrow[8].startswith("lab-1 01010101: not used: ")


def test_long_names_are_broken_and_not_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    state = crowd(1)
    name, model = "a-machine-with-a-very-long-name.example", "HuggingFaceTB/SmolLM2-135M-Instruct"
    state["nodes"][0] |= {"name": name, "models": [{"name": model}], "unmatched": None}
    lines = shown(run, monkeypatch, state, 80).splitlines()
    rows = lines[4 : lines.index("", 4)]
    assert all(cell_len(line) <= 80 for line in rows) and "1 s ago" in rows[0]
    at = [lines[3].index(heading) for heading in ("node", "id", "model", "state")]
    assert "".join(row[at[0] : at[1]].strip() for row in rows) == name
    assert "".join(row[at[2] : at[3]].strip() for row in rows) == model


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
    """Waits are over at once; after the fourth somebody presses Ctrl-C."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    return waited


def test_watching_prints_the_state_until_it_is_interrupted(run: Run, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        code, out, _ = run("status", "--coordinator", url, "--watch", "5", "--json")
    assert (code, looks) == (ExitCode.INTERRUPTED, [5.0] * 4)
    assert [set(json.loads(line)) for line in out.splitlines()] == [{"nodes", "targets", "acceptance"}] * 4


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_watching_waits_for_a_coordinator_that_is_away(
    run: Run, looks: list[float], monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    with serving(FakeCoordinator()) as url:
        state = json.loads(run("status", "--coordinator", url, "--json")[1])
    away = Unreachable("nobody answers")
    answers = iter([state, away, away, state])

    def look(client: Client) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Client, "state", look)
    code, out, err = run("status", "--coordinator", url, "--watch", "1", *how)
    assert (code, next(answers, None)) == (ExitCode.INTERRUPTED, None)
    assert out.count("lab-a") == 2
    assert err == "wanspec: nobody answers; looking again every 1 s\n", "said once"


def test_where_there_is_no_screen_every_look_is_printed(run: Run, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        _, once, _ = run("status", "--coordinator", url)
        _, out, err = run("status", "--coordinator", url, "--watch", "5")
    assert (out, err) == ("\n".join([once] * 4), "")


def last_look(run: Run, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> list[str]:
    """What stands on a screen of 24 lines at the end."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = shown(run, monkeypatch, state, 80, "--watch", "2")
    last = out.rpartition("\x1b[1A")[2]  # the cursor has gone up to the first line
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", last).splitlines()


def test_a_page_longer_than_the_screen_has_fewer_nodes_those_in_trouble_first(
    run: Run, monkeypatch: pytest.MonkeyPatch, looks: list[float]
) -> None:
    state = crowd(40)
    state["nodes"][30] |= {"state": "silent"}
    lines = last_look(run, monkeypatch, state)
    assert len(lines) == 23
    nodes = [line.split()[0] for line in lines if line.startswith("lab-") and "not used" not in line]
    assert nodes[:3] == ["lab-30", "lab-39", "lab-0"] and len(nodes) > 5
    assert f"and {40 - len(nodes)} more: without --watch all are shown" in lines
    assert lines[-1].startswith("bbbbbbbb big"), "the tables below are there too"
    looks.clear()
    assert len(last_look(run, monkeypatch, crowd(5))) < 23


def test_many_targets_leave_room_for_the_others(run: Run, monkeypatch: pytest.MonkeyPatch, looks: list[float]) -> None:
    state = crowd(40)
    state["targets"] *= 40
    state["acceptance"] *= 40
    lines = last_look(run, monkeypatch, state)
    assert len(lines) <= 23 and sum(line.startswith("and ") for line in lines) == 3
    assert all(sum(line.startswith(word) for line in lines) >= 2 for word in ("big", "lab-", "bbbb"))


def test_watching_what_is_not_there_ends_at_once(run: Run, looks: list[float]) -> None:
    with serving(FakeCoordinator()) as url:
        pass
    assert run("status", "--coordinator", url, "--watch", "1")[0] == ExitCode.UNREACHABLE
    assert looks == []
