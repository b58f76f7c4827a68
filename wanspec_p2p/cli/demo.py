"""`wanspec demo`: the command; what it does is in `demo_run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wanspec_p2p.cli.output import Json, emit
from wanspec_p2p.errors import ExitCode, InvalidRequest, UsageError

if TYPE_CHECKING:
    from wanspec_p2p.client.exchange import Options

__all__ = ["demo"]

PROMPT = "Explain how photosynthesis works, in numbered steps."


def demo(
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    max_tokens: Annotated[int, typer.Option(help="Length of the answer.", min=1)] = 96,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0, max=100.0)] = 0.0,
    seed: Annotated[
        int, typer.Option(help="Of the draws, where the temperature is above 0.", min=-(2**63), max=2**63 - 1)
    ] = 0,
    json: Json = False,
) -> None:
    """Start a coordinator, a target and three nodes here, answer a prompt, and compare with the target alone."""
    if sys.platform == "win32":
        raise UsageError("the demo needs Linux or macOS; on Windows start the parts by hand (docs/quickstart.md)")
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty: give a text with --prompt", param="prompt")
    import asyncio

    from wanspec_p2p.cli.demo_run import run_demo
    from wanspec_p2p.cli.demo_screen import Screen
    from wanspec_p2p.client.exchange import request_body

    options: Options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    request_body(prompt, "any", options, raw=False)  # before anything is started for what cannot be asked
    screen = Screen(results=not json)
    report = asyncio.run(run_demo(screen, prompt, options))
    if json:
        emit(report.as_json())
    else:
        screen.report(report)
    if not report.identical:
        raise typer.Exit(ExitCode.NOT_IDENTICAL)
