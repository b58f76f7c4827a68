"""Nothing here builds an image; what can be known without one is checked: files, flags, users, no secret."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer

from coordinator.settings import CoordinatorSettings
from node.settings import NodeSettings
from wanspec_p2p.cli.coordinator_keeping import settings_of
from wanspec_p2p.cli.main import app

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "containers").glob("*.Dockerfile"))
SETTINGS = {"coordinator": CoordinatorSettings, "node": NodeSettings}
KNOWN = ("FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
DIRECTORIES = {"WANSPEC_DATA_DIR", "WANSPEC_CACHE_DIR"}


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def only(file: Path, word: str) -> str:
    (rest,) = [rest for name, rest in instructions(file) if name == word]
    return rest


def variables(file: Path) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", only(file, "ENV")))


def test_there_is_one_for_each_that_is_promised() -> None:
    assert [file.stem for file in FILES] == ["coordinator", "node"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestImage:
    def test_every_instruction_is_one(self, file: Path) -> None:
        assert {word for word, _ in instructions(file)} <= set(KNOWN)
        assert instructions(file)[0][0] == "FROM"

    def test_the_base_is_a_name_with_a_version_that_runs_us(self, file: Path) -> None:
        name, _, tag = only(file, "FROM").partition(":")
        assert (name, tag.endswith("-slim")) == ("python", True)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        version = tag.removesuffix("-slim")
        assert any(classifier.endswith(f":: {version}") for classifier in project["classifiers"])

    def test_what_is_copied_is_there_and_reaches_the_build(self, file: Path) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        let_in = {line[1:] for line in lines if line.startswith("!")}
        copied = [source for word, rest in instructions(file) if word == "COPY" for source in rest.split()[:-1]]
        assert "*" in lines and set(copied) == let_in
        assert all((ROOT / source).exists() for source in copied)

    def test_what_the_package_is_built_from_is_copied(self, file: Path) -> None:
        document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        needed = {document["project"]["readme"], *document["project"]["license-files"], "pyproject.toml"}
        needed |= set(document["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
        assert needed <= {source for word, rest in instructions(file) if word == "COPY" for source in rest.split()}

    def test_it_installs_pinned_versions_and_extras_that_exist(self, file: Path) -> None:
        document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        extras = document["project"]["optional-dependencies"]
        install = only(file, "RUN")
        assert "--constraint constraints.txt" in install
        asked = {extra for group in re.findall(r"\.\[([\w,]+)\]", install) for extra in group.split(",")}
        assert asked <= set(extras)
        assert ("torch" in str([extras[extra] for extra in asked])) is (file.stem == "node")

    def test_its_command_is_one_of_ours_with_flags_it_has(self, file: Path) -> None:
        entry, words = json.loads(only(file, "ENTRYPOINT")), json.loads(only(file, "CMD"))
        assert entry == ["wanspec"]
        command = typer.main.get_command(app)
        while words and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]  # a group's
        context = command.make_context("wanspec", list(words))  # parses, and does not run
        assert not context.args

    def test_its_variables_are_settings_and_none_is_a_secret(self, file: Path) -> None:
        ours = {name for name in variables(file) if name.startswith("WANSPEC_")}
        fields = {f"WANSPEC_{file.stem}_{f.name}".upper() for f in dataclasses.fields(SETTINGS[file.stem])}
        assert ours <= DIRECTORIES | fields
        assert not re.search(r"JOIN|KEY|TOKEN|SECRET|PASSWORD", only(file, "ENV"))

    def test_it_runs_as_nobody_in_particular_and_keeps_its_state_in_volumes(self, file: Path) -> None:
        words = [word for word, _ in instructions(file)]
        assert only(file, "USER") == "wanspec" and words.index("USER") > words.index("RUN")
        kept = {value for name, value in variables(file).items() if name in DIRECTORIES}
        assert kept == set(only(file, "VOLUME").split())
        assert all(place in only(file, "RUN") for place in kept)


def test_the_coordinator_is_healthy_at_the_port_it_serves() -> None:
    file = ROOT / "containers" / "coordinator.Dockerfile"
    command = json.loads(only(file, "CMD"))
    port = command[command.index("--port") + 1]
    assert only(file, "EXPOSE") == port
    check = json.loads(only(file, "HEALTHCHECK").partition("CMD ")[2])
    assert check[:2] == ["python", "-c"] and f"https://127.0.0.1:{port}/health" in check[2]
    ast.parse(check[2])


def test_beside_a_running_coordinator_its_public_url_is_one_that_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker exec` hands the variables on, and none of the flags."""
    for name, value in variables(ROOT / "containers" / "coordinator.Dockerfile").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANSPEC_COORDINATOR_PUBLIC_URL", "https://coordinator.example:8443")
    settings = settings_of({})
    assert (settings.host, settings.data_dir) == ("0.0.0.0", Path("/data/coordinator"))


def test_a_node_exposes_nothing() -> None:
    assert "EXPOSE" not in {word for word, _ in instructions(ROOT / "containers" / "node.Dockerfile")}
