"""Documents say what is so: links lead somewhere, commands exist with the flags that are shown, examples run."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from node import installation
from tests.support.documented import LANGUAGES, blocks, exemption
from tests.support.example_pages import EXEMPT, pages_with_examples, typed
from tests.support.example_pages import PAGES as EXAMPLES
from wanspec_p2p.cli.main import app
from wanspec_p2p.config import Paths
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.models.catalog import DRAFTER, TARGET

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
KNOWN_TOOLS = {"make", "pip", "curl", "export", ".", "llm", "aiperf", "docker"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def texts(page: Path, language: str) -> Iterator[str]:
    """Of the page's blocks in one language."""
    return (block.body for block in blocks(page.read_text(encoding="utf-8")) if block.language == language)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_commands(page: Path) -> Iterator[list[str]]:
    for body in texts(page, "console"):
        for line in body.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                for part in [*re.findall(r"\$\(([^)]*)\)", line), re.sub(r"\$\([^)]*\)", "TOKEN", line[2:])]:
                    for command in part.split(" | "):
                        yield shlex.split(command, comments=True)


@functools.cache
def command_line() -> Any:
    return typer.main.get_command(app)


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or command_line()
    if hasattr(command, "commands"):
        for word, below in command.commands.items():
            yield from commands(below, (*path, word))
    else:
        yield path, command


def flags(command: Any) -> set[str]:
    shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    return {flag for p in shown for flag in (*p.opts, *p.secondary_opts)} - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{link} leads nowhere"
        assert there.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(there), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_shown_exist_with_their_flags(page: Path) -> None:
    known = dict(commands())
    for words in shell_commands(page):
        program, *rest = words
        if Path(program).name != "wanspec":
            assert program in KNOWN_TOOLS, f"{program} is a tool nobody introduced"
            continue
        path = next((tuple(rest[:length]) for length in (3, 2) if tuple(rest[:length]) in known), tuple(rest[:1]))
        assert path in known, f"no such command: {words}"
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= flags(known[path]) | {"--help"}, f"no such flag: {words}"


def test_the_unit_that_is_shown_starts_a_coordinator_and_leaves_it_where_another_try_is_of_no_use() -> None:
    (unit,) = texts(ROOT / "docs/how-to/run-a-coordinator.md", "ini")
    said = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    program, *words = said["ExecStart"].split()
    assert Path(program).name == "wanspec" and set(words[2:]) <= flags(dict(commands())[tuple(words[:2])])
    variables = dict(word.split("=") for word in said["Environment"].split())
    assert Paths.from_environment({"HOME": "/h", **variables}).data == Path("/var/lib") / said["StateDirectory"]
    assert said["RestartPreventExitStatus"] == " ".join(str(int(code)) for code in installation.HOPELESS)
    assert said["SuccessExitStatus"] == str(int(ExitCode.INTERRUPTED))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A command in a block of no language would be typed by readers and run by no test."""
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.language in LANGUAGES, f"line {block.line}: {block.language or 'nothing'} is none of {LANGUAGES}"
        assert block.language == "console" or not re.search(r"^\$ ", block.body, re.MULTILINE)


def test_what_is_not_run_is_shown_somewhere() -> None:
    """`tests/system/test_examples.py` runs all that the pages show, but for what these tables name."""
    shown = [text for page in pages_with_examples() for text in typed((ROOT / page).read_text(encoding="utf-8"))]
    used = {exemption(text, EXEMPT) for text in shown}
    assert set(EXEMPT) <= used
    assert set(EXAMPLES) <= set(pages_with_examples())


def test_extras_that_are_shown_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = {extra for group in re.findall(r'pip install "\.\[([\w,]+)\]"', text) for extra in group.split(",")}
    assert shown and shown <= set(extras)
    assert not re.search(r'pip install "?wanspec', text), "no index has us"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_that_are_shown_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in shell_commands(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"no such target: {words}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_parse_and_import_what_is_there(page: Path) -> None:
    for body in texts(page, "python"):
        for statement in ast.walk(ast.parse(body)):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("wanspec_p2p"):
                module = __import__(statement.module or "", fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in statement.names)


def test_every_command_and_flag_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## wanspec (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for path, command in commands():
        section = sections[path[0]]
        assert len(path) == 1 or f"`{path[1]}" in section, f"{' '.join(path)} is not described"
        missing = {flag for flag in flags(command) - {"--json"} if f"`{flag}`" not in section}
        assert not missing, f"{' '.join(path)}: {missing} not described"
        assert "--json" in flags(command), f"{' '.join(path)} lacks --json"


def test_the_reference_names_no_flag_that_does_not_exist() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    known = set().union(*(flags(command) for _, command in commands())) | {"--help"}
    assert set(re.findall(r"`(--[\w-]+)`", text)) <= known


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    assert {(int(code), word) for code, word in re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)} == {
        (code.value, code.name) for code in ExitCode
    }


def test_the_embedded_models_are_listed_with_their_licences() -> None:
    text = (ROOT / "docs/reference/third-party.md").read_text(encoding="utf-8")
    assert DRAFTER in text and "SmolLM2-135M-Instruct" in text and TARGET == "smollm2-135m"


def test_every_dependency_is_listed_and_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["node"], *extras["target"], *extras["distill"], *extras["dev"]]
    wanted = {re.split(r"[<>=!~\[ ]", requirement)[0].lower().replace("_", "-") for requirement in named}
    wanted -= {project["name"]}  # an extra may include another
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {n.lower().replace("_", "-") for n in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    listed = (ROOT / "docs/reference/third-party.md").read_text(encoding="utf-8").lower().replace("_", "-")
    assert wanted <= pinned
    assert {package for package in wanted if f"| {package} |" not in listed} == set()
