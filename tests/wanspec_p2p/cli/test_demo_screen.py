from __future__ import annotations

import dataclasses

import pytest

from tests.wanspec_p2p.cli.test_demo_report import A, answer, report
from wanspec_p2p.cli.demo_screen import Screen
from wanspec_p2p.cli.processes import ChildDied
from wanspec_p2p.client.answers import Piece


def show(screen: Screen) -> None:
    with screen:
        screen.step("starting the coordinator")
        screen.question("Why?", {A: "ada"})
        screen.piece(Piece("Because", (1,), (A,), 0))
        screen.piece(Piece(" so.", (2,), (None,), 1))
        screen.answered()


def test_without_a_terminal_it_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(Screen(results=True))
    out, err = capsys.readouterr()
    assert err == "starting the coordinator\n"
    assert out == "\nWhy?\n\nBecause so.\n\ntokens: target alone 1 · ada 1\n\n"


def test_with_results_off_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    show(Screen(results=False))
    assert capsys.readouterr() == ("", "starting the coordinator\n")


def test_on_a_terminal_tokens_are_coloured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    show(Screen(results=True))
    out, err = capsys.readouterr()
    assert "\x1b[96mBecause\x1b[0m\x1b[37m so.\x1b[0m" in out
    assert "✓ starting the coordinator" in err


def test_the_report_is_a_table_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(results=True).report(report(answer(1, 2, 3), answer(1, 2, 3)))
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    assert rows["tokens"] == ["3", "3"]
    assert rows["accepted per round"] == ["0.50", "0.50"]
    assert rows["tokens/s"] == ["1.5", "3.0"]
    assert rows["identical to the target"] == ["alone:", "yes"]


def test_a_difference_is_shown_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    other = dataclasses.replace(answer(1, 2, 3), token_ids=(1, 7, 3))
    Screen(results=True).report(report(answer(1, 2, 3), other))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "identical to the target alone: NO, they part at token 1: (2, 3) with the nodes, (7, 3) without"


def test_the_last_words_of_a_dead_process_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(results=False).last_words(ChildDied("target", 5, ["loading", "no memory"]))
    assert capsys.readouterr().err == "  target │ loading\n  target │ no memory\n"
