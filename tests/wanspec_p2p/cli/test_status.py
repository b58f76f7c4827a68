from __future__ import annotations

import json

from tests.support.fake_coordinator import FakeCoordinator, serving
from tests.wanspec_p2p.cli.conftest import Run


def test_status_shows_targets_and_nodes(run: Run) -> None:
    fake = FakeCoordinator()
    with serving(fake) as url:
        code, out, err = run("status", "--coordinator", url)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split() == ["target", "id", "model", "state", "sessions", "queued", "drafters", "owner", "site"]
        assert lines[1].split() == ["big", "tttttttt", "smollm2-135m", "active", "1", "0", "2"]
        assert lines[4].split() == ["lab-a", "aaaaaaaa", "smollm2-draft", "active", "1", "default", "ada", "north"]


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
    assert [line.strip() for line in out.splitlines()][1::3] == ["none", "none"]
