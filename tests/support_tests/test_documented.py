from __future__ import annotations

import pytest

from tests.support.documented import Block, Command, Replacements, blocks, commands, exemption, file_named, not_shown

PAGE = """# A page

```console
$ first \\
    --long     # with a word
shown
$ second
```

Text.

```
untold
```
"""


def test_a_pages_blocks_know_their_language_and_line() -> None:
    first, second = blocks(PAGE)
    assert (first.line, first.language, second.line, second.language, second.body) == (4, "console", 13, "", "untold\n")


def test_commands_have_their_continuation_and_what_they_print() -> None:
    assert commands(next(blocks(PAGE))) == [
        Command(4, "first \\\n    --long     # with a word", ("shown",)),
        Command(7, "second"),
    ]


def test_a_block_that_only_shows_is_no_console() -> None:
    with pytest.raises(ValueError, match="line 1 shows 'forgot"):
        commands(Block(1, "console", "forgot the dollar\n"))


@pytest.mark.parametrize(
    ("body", "name"), [("# ~/a/b.toml\nx = 1\n", "~/a/b.toml"), ("# a remark\n", None), ("x = 1\n", None)]
)
def test_a_file_is_named_in_its_first_line(body: str, name: str | None) -> None:
    assert file_named(Block(1, "toml", body)) == name


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (["ready at 9"], []),
        (["ready at", "never", "the end"], ["never", "the end"]),
        (["b = 2 # file …/x.toml", "the end"], []),
        (["b = 2 # file …/y.toml"], ["b = 2 # file …/y.toml"]),
        (["…", "the end", "ready at"], ["ready at"]),
        ([""], []),
    ],
)
def test_shown_lines_are_printed_in_their_order(shown: list[str], missing: list[str]) -> None:
    assert not_shown(shown, "ready at 7\nb = 2      # file /a/x.toml\nthe end of it\n") == missing


def test_replacements_prefer_the_longest_and_know_which_were_used() -> None:
    replacements = Replacements({"host": "loop", "host:80": "host:9", "never": ""})
    assert replacements.apply("at host:80 and host") == "at host:9 and loop"
    assert replacements.unused == {"never"}
    assert Replacements({}).apply("as it is") == "as it is"


def test_an_exemption_is_the_beginning_of_a_command() -> None:
    assert exemption("docker run", {"docker ": "no images here"}) == "docker "
    assert exemption("dockerise", {"docker ": "no images here"}) is None
