"""The door: every command comes in here, every error leaves here as one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated

import typer

from wanspec_p2p import __version__
from wanspec_p2p.cli import (
    coordinator,
    demo,
    distill,
    doctor,
    models,
    node,
    probe,
    prompt,
    record,
    sim,
    status,
    target,
    testbed,
)
from wanspec_p2p.cli.findings import key_advice
from wanspec_p2p.cli.output import debugging, emit, printable, say, shows_everything
from wanspec_p2p.errors import ExitCode, Unauthenticated, WanspecError

__all__ = ["app", "main"]

app = typer.Typer(
    name="wanspec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich's takes a third of the start
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"wanspec {__version__}")
        raise typer.Exit


@app.callback()
def wanspec(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Idle machines draft, the target decides every token."""


app.command("demo")(demo.demo)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(target.app, name="target")
app.add_typer(node.app, name="node")
app.command("prompt")(prompt.prompt)
app.add_typer(models.app, name="models")
app.command("distill")(distill.distill)
app.command("record")(record.record)
app.add_typer(sim.app, name="sim")
app.command("testbed")(testbed.testbed)
app.add_typer(probe.app, name="probe")
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)


@app.command("version")
def version(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the version."""
    if json:
        emit({"version": __version__, "python": ".".join(map(str, sys.version_info[:3]))})
    else:
        say(f"wanspec {__version__}")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (docs/reference/exit-codes.md)."""
    _spell_out_what_cannot_be_shown()
    try:
        with _sigterm_interrupts():
            code = typer.main.get_command(app).main(args, prog_name="wanspec", standalone_mode=False)
        return int(code or ExitCode.OK)
    except Unauthenticated as error:
        return _failed(key_advice(error), error.exit_code)
    except WanspecError as error:
        return _failed(str(error), error.exit_code)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
            return ExitCode.USAGE
        return _failed(_usage_line(error), ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as error:
        odd = next(filter(_is_no_text, sys.argv[1:] if args is None else args), None)
        if isinstance(error, UnicodeEncodeError) and odd is not None:
            shown = odd.encode(errors="backslashreplace").decode()
            return _failed(f"the argument {shown} is not UTF-8: give it in UTF-8", ExitCode.USAGE)
        return _failed(
            f"this should not have happened: {type(error).__name__}: {_one_line(str(error))} "
            "(run it again with WANSPEC_DEBUG=1 for the traceback, and report it)",
            ExitCode.FAILURE,
        )


def _spell_out_what_cannot_be_shown() -> None:
    """Where the locale is not UTF-8, as Python itself does on stderr; a check mark is no reason to fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not shows_everything():
        sys.stdout.reconfigure(errors="namereplace")


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, so that what was begun is tidied up; services set their own."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # while asyncio.run runs, its own: the main task is cancelled
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_no_text(argument: str) -> bool:
    """Python takes a byte that is no UTF-8 for half of a surrogate pair, which file names may hold and nothing else."""
    return any("\ud800" <= character <= "\udfff" for character in argument)


def _failed(line: str, code: ExitCode) -> int:
    if debugging():
        traceback.print_exc()
    typer.echo(f"wanspec: {_one_line(line)}", err=True)
    return code


def _usage_line(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "wanspec"
    return f"{error.format_message().rstrip('.')}; see {command} --help"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


if (benches := importlib.util.find_spec("wanspec_p2p.cli.bench")) is not None and benches.origin is not None:
    app.add_typer(importlib.import_module(benches.name).app, name="bench")
