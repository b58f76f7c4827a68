"""What the demo shows: steps on stderr; the answer, coloured by origin, and the table on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.status import Status
from rich.table import Table
from rich.text import Text

from wanspec_p2p.cli.origins import Origins
from wanspec_p2p.cli.output import console, printable
from wanspec_p2p.client.answers import Piece

if TYPE_CHECKING:
    from typing import Self

    from wanspec_p2p.cli.demo_report import Report
    from wanspec_p2p.cli.processes import ChildDied

__all__ = ["Screen"]


class Screen:
    """Without terminals it writes plain text; with `results` off, stdout stays empty."""

    def __init__(self, *, results: bool) -> None:
        self._steps = console(stderr=True)
        self._out = console()
        self._results = results
        self._origins = Origins()
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._settle()

    def step(self, text: str, *, bars: bool = False) -> None:
        """What is going on now; `bars` leaves the line to somebody else's progress bars."""
        self._settle()
        if self._steps.is_terminal and not bars:
            self._status = self._steps.status(text)
            self._status.start()
        else:
            self._steps.print(text)

    def _settle(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._steps.print(Text(f"✓ {self._status.status}", style="green"))
            self._status = None

    def question(self, prompt: str, names: Mapping[str, str]) -> None:
        self._settle()
        self._origins = Origins(names)
        if self._results:
            self._out.print(Text(f"\n{prompt}\n", style="bold"))

    def piece(self, piece: Piece) -> None:
        text = self._origins.coloured(piece)
        if self._results:
            self._out.print(text, end="")
            self._out.file.flush()

    def answered(self) -> None:
        if self._results:
            self._out.print("\n")
            self._out.print(Text("tokens: ") + self._origins.legend())
            self._out.print()

    def last_words(self, died: ChildDied) -> None:
        """The last log lines of a process that ended before its time."""
        self._settle()
        for line in died.lines:
            self._steps.print(Text(f"  {died.name} │ {printable(line)}", style="dim"))

    def report(self, report: Report) -> None:
        answer, alone = report.together.answer, report.alone.answer
        table = Table("", "with three nodes", "target alone", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        ours, theirs = answer.speculation, alone.speculation
        table.add_row("tokens", str(len(answer.token_ids)), str(len(alone.token_ids)))
        table.add_row("rounds", str(ours.rounds), str(theirs.rounds))
        table.add_row("accepted per round", f"{ours.accepted_per_round:.2f}", f"{theirs.accepted_per_round:.2f}")
        table.add_row("draft passes at the target", str(ours.target_draft_passes), str(theirs.target_draft_passes))
        for name, won in report.won_by_name.items():
            table.add_row(f"positions won by {name}", str(won), "")
        table.add_row("tokens/s", f"{report.together.tokens_per_second:.1f}", f"{report.alone.tokens_per_second:.1f}")
        self._out.print(table)
        self._out.print(
            Text("\nAll of them shared this machine: what counts here is the text, not the speed.", style="dim")
        )
        self._out.print(f"identical to the target alone: {self._verdict(report)}")

    def _verdict(self, report: Report) -> str:
        at = report.first_difference
        if at is None:
            return "yes"
        ours, theirs = report.together.answer.token_ids, report.alone.answer.token_ids
        return f"NO, they part at token {at}: {ours[at : at + 3]} with the nodes, {theirs[at : at + 3]} without"
