"""What docs/how-to/use-from-openai-clients.md shows is run as it stands there, with our address, key and model."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.interop_checks import nothing_is_left
from tests.support.scripted_services import MODEL, Services
from tests.support.tiny_models import write_tokenizer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

Program = Callable[[str, str], Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
PAGE = (Path(__file__).parents[2] / "docs/how-to/use-from-openai-clients.md").read_text(encoding="utf-8")
SHOWN_URL, SHOWN_KEY, SHOWN_MODEL = "https://coordinator.example", "wsk-…", "smollm2-135m"
SHORT = 12
"""Tokens an answer may have here; the examples set no limit, and scripted models do not end by themselves."""


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def commands(program: str, services: Services) -> list[list[str]]:
    """The commands of one program, ready to run but for the program itself."""
    text = "\n".join(blocks("console")).replace("\\\n", " ")
    ours = text.replace(SHOWN_URL, services.url).replace("$WANSPEC_API_KEY", services.key)
    lines = [line[2:] for line in ours.splitlines() if line.startswith(f"$ {program} ")]
    assert lines
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize(
    ("client", "needs"), [("openai", "openai"), ("litellm", "litellm"), ("langchain", "langchain")]
)
def test_the_python_examples(client: str, needs: str, program: Program, run: Run, services: Services) -> None:
    (example,) = [block for block in blocks("python") if re.search(rf"^(from|import) {needs}", block, re.MULTILINE)]
    example = example.replace(SHOWN_URL, services.url).replace(SHOWN_KEY, services.key)
    # One more argument where the model is named, which every one of these calls takes.
    example, count = re.subn(rf'model="(.*?){SHOWN_MODEL}"', rf'model="\g<1>{MODEL}", max_tokens={SHORT}', example)
    assert count == 1
    done = run(program(client, "python"), "-c", example, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    nothing_is_left(services)


def test_the_llm_commands(program: Program, run: Run, services: Services, tmp_path: Path) -> None:
    (configured,) = blocks("yaml")
    configured = configured.replace(SHOWN_URL, services.url).replace(SHOWN_MODEL, MODEL)
    (tmp_path / "extra-openai-models.yaml").write_text(configured)
    (tmp_path / "keys.json").write_text(f'{{"wanspec": "{services.key}"}}')
    by_address, by_name = commands("llm", services)
    for words in (by_address, by_name):
        words = [MODEL if word == SHOWN_MODEL else word for word in words]
        done = run(program("llm", "llm"), *words, "-o", "max_tokens", SHORT, LLM_USER_PATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert "accepted_prediction_tokens" in done.stderr
    nothing_is_left(services)


def test_the_aiperf_command(program: Program, run: Run, services: Services, tmp_path: Path) -> None:
    (words,) = commands("aiperf", services)
    (tmp_path / SHOWN_MODEL).mkdir()
    write_tokenizer(tmp_path / SHOWN_MODEL)
    words = [MODEL if word == SHOWN_MODEL else word for word in words]
    done = run(program("aiperf", "aiperf"), *words, "--ui", "none", COLUMNS="160")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Spec Decode" in done.stdout
    nothing_is_left(services)
