"""Which page of the documents is run how: what takes the place of the reader's own things, and what is not run.

`{words}` in braces are values that a test has: `{url}` and `{key}` of a network that runs on loopback, `{node_token}`
and `{target_token}` that it admits, `{port}` that is free, `{certificate}` a file, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.documented import blocks, commands

__all__ = ["EXEMPT", "LONG", "PAGES", "Page", "page_of", "pages_with_examples", "typed"]

ROOT = Path(__file__).parents[2]

EXEMPT: Mapping[str, str] = {
    "make ": "it prepares an environment from the network; whoever checks a change runs `make test`, which runs this",
    "pip install ": "it asks a package index; `make setup` installs the same, and test_docs.py knows the extras",
    ".venv/bin/wanspec demo ": "it loads real models; tests/system/test_demo.py runs it",
    "docker ": "it builds and runs images; test_containers.py checks the recipes",
    "wanspec sim reference --ablate ": "a minute at its shortest; test_sim.py plays it with fewer passes",
    "llm ": "a client of others, run as it stands here by tests/interop/test_documented.py",
    "aiperf ": "a client of others, run as it stands here by tests/interop/test_documented.py",
    "from openai import": "a client of others, run as it stands here by tests/interop/test_documented.py",
    "import litellm": "a client of others, run as it stands here by tests/interop/test_documented.py",
    "from langchain_openai import": "a client of others, run as it stands here by tests/interop/test_documented.py",
}
"""Beginnings of commands and programs that no test of ours can run, each with the reason."""


@dataclass(frozen=True, slots=True)
class Page:
    """Attributes:
    replaced: what stands there, and what is typed instead; each has to occur.
    variables: of every command.
    files: that the reader has, by path.
    first: commands that the page takes for granted.
    stopped_for: commands before which the reader is told to stop what runs.
    statuses: of commands that end with another than 0.
    excerpts: `toml` blocks, by their first line, that show a part of a file that is there by then.
    """

    replaced: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    stopped_for: tuple[str, ...] = ()
    statuses: Mapping[str, int] = field(default_factory=dict)
    excerpts: Mapping[str, str] = field(default_factory=dict)


SHORT = " --max-tokens 12"
"""Scripted models do not end by themselves."""
CACHED = {"WANSPEC_CACHE_DIR": "{model_cache}"}
NODE_HERE = ("wanspec coordinator run", "wanspec coordinator token | wanspec node join -")
EXPOSED = "127.1"
"""127.0.0.1 in a spelling that is not taken for this machine: what listens there has TLS, as where others can dial."""
PINNED = r"""wanspec coordinator ca --json | sed 's/.*"fingerprint":"\([0-9a-f]*\).*/\1/'"""
BRIEFLY = "--tokens 300 --epochs 1 --batch 512 --threads 1 --dtype float32 --unseen unseen.jsonl"

PAGES: Mapping[str, Page] = {
    "README.md": Page(
        {
            "https://coordinator.example": "{url}",
            "wsk-…": "{key}",
            '"Why is the sky blue?"\n': f'"Why is the sky blue?"{SHORT}\n',
            "max_tokens=64": "max_tokens=12",
            '("user", "And at sunset?")]': '("user", "And at sunset?")], max_tokens=12',
            "node join TOKEN": "node join {node_token}",
            "target join TOKEN": "target join {target_token}",
        }
    ),
    "docs/quickstart.md": Page(
        {
            '"Why is the sky blue?"': f'"Why is the sky blue?"{SHORT}',
        }
    ),
    "docs/how-to/lend-a-gpu.md": Page(
        {
            "wanspec-join-1.eyJ...": "{node_token}",
            "node join -\n": "node join - <<< {node_token}\n",
            "service install": "service install --dry-run",
        },
        files={"token.txt": "{node_token}\n"},
        statuses={"wanspec node service status": 1},  # since it was not installed
    ),
    "docs/how-to/run-a-coordinator.md": Page(
        {
            "--port 8080": "--port 0",
            "--host 0.0.0.0 --port 8443": f"--host {EXPOSED} --port {{port}}",
            "https://coordinator.example:8443": "https://127.0.0.1:{port}",
            "/etc/ssl/example.pem": "{certificate}",
            "/safe/": "",
            "/srv/coordinator": "restored",
        }
    ),
    "docs/how-to/run-a-target.md": Page(
        {
            "join TOKEN": "join {target_token}",
            "--host 0.0.0.0 --port 7443": f"--host {EXPOSED} --port {{port}}",
            "wss://target.example:7443": "wss://127.0.0.1:{port}",
        },
        variables=CACHED,
    ),
    "docs/how-to/operate.md": Page(
        {
            "status --watch 2": "status --watch 0.2",
            "/safe/": "",
            "/srv/coordinator": "restored",
        },
        variables={"TTY_COMPATIBLE": "1"},
        files={
            "home/.config/wanspec/wanspec.toml": (
                f'[coordinator]\nhost = "{EXPOSED}"\nport = {{port}}\npublic_url = "https://127.0.0.1:{{port}}"\n'
            )
        },
        first=(
            *NODE_HERE,
            "export WANSPEC_API_KEY=$(wanspec coordinator key operator)",
            "wanspec coordinator key alice",
            f"export WANSPEC_FINGERPRINT=$({PINNED})",
        ),
        stopped_for=("wanspec coordinator rotate-key", "wanspec coordinator rotate-cert"),
    ),
    "docs/how-to/use-from-openai-clients.md": Page(
        {"https://coordinator.example": "{url}", '"smollm2-135m", "stream"': '"{model}", "max_tokens": 12, "stream"'},
        variables={"WANSPEC_API_KEY": "{key}"},
    ),
    "docs/how-to/measure-load.md": Page(
        {
            "https://us-west.example/v1": "{endpoint}",
            "http://127.0.0.1:8000/v1": "{endpoint}",
            "--duration 24h --interval 5m": "--duration 2s --interval 1s",
            "load-map/scenario.toml\n": "load-map/scenario.toml --seeds 1\n",
        },
        variables={"WEST_KEY": "{endpoint_key}"},
        excerpts={"[observed]": "load-map/scenario.toml"},
    ),
    "docs/how-to/train-a-drafter.md": Page(
        {"./my-model --out": f"./my-model {BRIEFLY} --out"},
        files={"my-model": "{tiny_model}", "unseen.jsonl": '{{"prompt": "Why?"}}\n'},
        first=NODE_HERE,
    ),
    "docs/reference/cli.md": Page({"https://coordinator.example": "{url}", "wsk-…": "{key}"}),
    "docs/topics/wan.md": Page(
        {
            "--rtt 25 --drafters 2": "--rtt 25 --drafters 2 --quick",
            "sim adversity": "sim adversity --seeds 1 --tokens 8",
            "two-regions.toml": "two-regions.toml --seeds 1",
        },
        files={"docs/examples": "{examples}"},
    ),
}
"""A page that is not here has nothing that needs another's place."""

LONG = ("docs/how-to/measure-load.md", "docs/how-to/train-a-drafter.md")
"""These measure, draw and train: they are a file of tests by themselves, so that two processes share the time."""


def page_of(name: str) -> Page:
    return PAGES.get(name, Page())


def pages_with_examples() -> list[str]:
    """Every page with something to type or to write into a file, by its path from the root."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(page.relative_to(ROOT)) for page in pages if typed(page.read_text(encoding="utf-8"))]


def typed(text: str) -> list[str]:
    """Every command and program of a page, and every file that it shows."""
    found = []
    for block in blocks(text):
        if block.language == "console":
            found += [command.text for command in commands(block)]
        elif block.language in ("python", "toml"):
            found.append(block.body)
    return found
