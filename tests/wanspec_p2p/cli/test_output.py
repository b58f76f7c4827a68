from __future__ import annotations

import io

import pytest

from wanspec_p2p.cli.output import emit, printable, progress_bars, say, short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": [1, "ü"]})
    assert capsys.readouterr().out == '{"a":[1,"ü"]}\n'


def test_words_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("done")
    assert capsys.readouterr() == ("done\n", "")


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\rc\x9bd\ne\tf") == "a\ufffd[31mb\ufffdc\ufffdd\ne\tf"


def test_ids_are_shortened_for_people() -> None:
    assert short("abcdefghij") == "abcdefgh"


def test_without_a_terminal_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("download", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_every_task_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as progress:
        progress("download", 1, 4)
        progress("convert", 0, 0)  # the total is not known
        progress("download", 4, 4)
    shown = screen.getvalue()
    assert "download" in shown and "100%" in shown and "convert" in shown
