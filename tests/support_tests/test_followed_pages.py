from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.example_pages import Page
from tests.support.followed_pages import follow, lacking, until_ctrl_c
from tests.support.typed_commands import Terminals, environment_of

NOBODY = "tests.support.nobody"


def read(page: Page, text: str, directory: Path, **replaced: str) -> None:
    with Terminals(directory, environment_of(directory, NOBODY)) as terminals:
        follow(page, text, directory, terminals, replaced)


@pytest.mark.parametrize(
    ("text", "terminal"),
    [
        ("wanspec coordinator run --port 0", "coordinator"),
        ("wanspec coordinator token | wanspec node join - --model x", "node"),
        ("wanspec status --watch 2", "status"),
        ("wanspec coordinator token --role target", None),
        ("wanspec target run --show-config", None),
        ("wanspec status", None),
    ],
)
def test_services_keep_their_terminal(text: str, terminal: str | None) -> None:
    assert until_ctrl_c(text) == terminal


def test_a_shown_table_is_a_part_of_the_real_one() -> None:
    real = {"a": {"b": 1, "c": 2.0}, "list": [{"d": "x", "e": [1, 2]}]}
    assert lacking({"a": {"b": 7}, "list": [{"e": [3]}]}, real) == []
    assert lacking({"a": {"b": "7", "z": 1}, "list": [{"f": 1}], "n": 1}, real) == ["a.b", "a.z", "list.f", "n"]


def test_files_commands_and_programs_are_read_in_their_order(tmp_path: Path) -> None:
    text = (
        "```toml\n# plan.toml\nx = 1\n```\n"
        "```python\nimport os\nprint(open('plan.toml').read())\nopen('seen', 'w').write(os.environ['WHO'])\n```\n"
    )
    page = Page(statuses={"exit 3": 3}, excerpts={"x = 5": "plan.toml"}, first=("export WHO=me",))
    read(page, f"{text}```console\n$ cat seen\nme\n$ exit 3\n```\n```toml\nx = 5\n```\n", tmp_path)
    assert (tmp_path / "seen").read_text() == "me"


@pytest.mark.parametrize(
    ("page", "text", "why"),
    [
        (Page(), "```console\n$ echo no\nyes\n```", "is shown, and this was printed"),
        (Page(), "```console\n$ false\n```", "ended with status 1"),
        (Page(), "```toml\nx = 1\n```", "whose text is this"),
        (Page(stopped_for=("wanspec",)), "", "mend the table of pages"),
    ],
)
def test_what_is_wrong_is_said(page: Page, text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=why):
        read(page, text, tmp_path)


def test_a_replacement_that_matches_nothing_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="mend the table of replacements"):
        read(Page(), "```console\n$ true\n```", tmp_path, never="")
