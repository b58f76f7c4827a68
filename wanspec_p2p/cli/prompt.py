"""`wanspec prompt`: ask a coordinator, and see whose draft settled each token."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wanspec_p2p.cli.output import Json, console, emit
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint, submitter
from wanspec_p2p.errors import InvalidRequest
from wanspec_p2p.types import Privacy

if TYPE_CHECKING:
    from wanspec_p2p.client import Answer, AnswerStream, Client
    from wanspec_p2p.client.exchange import Options

__all__ = ["prompt"]


def _above_zero(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter("it must be above 0")
    return value


def prompt(
    text: Annotated[str, typer.Argument(help="The message; - reads it from stdin.")],
    coordinator: CoordinatorUrl = None,
    api_key: ApiKey = None,
    fingerprint: Fingerprint = None,
    model: Annotated[str | None, typer.Option(help="By default the only one that is served.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="By default an answer may fill the model's context; with --raw 16.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=100.0, help="0 is greedy; by default 1.")] = None,
    top_p: Annotated[
        float | None, typer.Option(max=1.0, callback=_above_zero, help="Above 0; 1, the default, is off.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="0, the default, is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    privacy: Annotated[Privacy | None, typer.Option(help="Who may see the prompt.")] = None,
    network: Annotated[bool | None, typer.Option("--network/--no-network", help="Whether nodes may draft.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text; no chat template.")] = False,
    json: Json = False,
) -> None:
    """Send a prompt and stream the answer."""
    asked = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "privacy": privacy,
        "network": network,
    }
    options: Options = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]  # names of Options, from the signature
    message = _from_stdin() if text == "-" else text
    if not (message if raw else message.strip()):
        raise InvalidRequest("the prompt is empty: give a text, or - and a text on stdin", param="prompt")
    with submitter(coordinator, api_key, fingerprint).client() as client:
        if json:
            emit(_as_json(client.generate(message, model=model, raw=raw, **options)))
        else:
            _show(client, message, model, raw, options)


def _from_stdin() -> str:
    """Raises InvalidRequest where it cannot be read, or holds no text."""
    if sys.stdin is None:
        raise InvalidRequest("stdin is closed: give the text itself, or - and a text on stdin", param="prompt")
    try:
        return sys.stdin.buffer.read().decode()
    except OSError as error:
        raise InvalidRequest(f"stdin cannot be read ({error.strerror or error}): give the text itself") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the text on stdin is not UTF-8 (byte {error.start + 1}): convert it, as `iconv -t UTF-8` does",
            param="prompt",
        ) from error


def _show(client: Client, message: str, model: str | None, raw: bool, options: Options) -> None:
    with client.stream(message, model=model, raw=raw, **options) as stream:
        if sys.stdout.isatty():
            _coloured(stream, node_names(client.state()))
            return
        for piece in stream:  # to the letter: what reads it may be a program
            sys.stdout.write(piece.text)
            sys.stdout.flush()
        sys.stdout.write("\n")


def _coloured(stream: AnswerStream, names: dict[str, str]) -> None:
    from wanspec_p2p.cli.origins import Origins

    screen, origins = console(), Origins(names)
    for piece in stream:
        screen.print(origins.coloured(piece), end="")
        screen.file.flush()
    screen.print()
    console(stderr=True).print(origins.legend())


def node_names(state: dict[str, Any]) -> dict[str, str]:
    """What people call the nodes, by peer id."""
    return {node["id"]: node["name"] for node in state.get("nodes", [])}


def _as_json(answer: Answer) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(answer)
