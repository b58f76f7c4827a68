"""Figures as docs/benchmarks.md shows them."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

__all__ = ["in_words", "machine", "markdown"]


def machine() -> dict[str, Any]:
    """What the figures were measured on, and when."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def in_words(more: str) -> str:
    """The same in one line, and what else there is to say."""
    own = machine()
    return f"{own['cpus']} × {own['cpu']}, {own['system']}, {own['date']}; {more}"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def markdown(report: dict[str, Any]) -> str:
    """Tables of `wanspec bench speed`; each cell is the median, with minimum and maximum behind it."""
    where = report["machine"]
    lines = [
        f"{where['date']}, {where['cpus']} × {where['cpu']}, {where['system']}; {report['model']}, "
        f"{report['threads']} threads, answers of {report['tokens']} tokens.",
        "",
        "| | " + " | ".join(f"{e['dtype']} ({e['exactness']})" for e in report["engines"]) + " |",
        "|---|" + "---|" * len(report["engines"]),
    ]

    def row(name: str, cell: Any) -> None:
        lines.append(f"| {name} | " + " | ".join(cell(engine) for engine in report["engines"]) + " |")

    row("target alone, tokens/s", lambda e: _spread(e["against_transformers"]["target_tokens_per_second"]))
    row(
        "`transformers.generate`, tokens/s",
        lambda e: _spread(e["against_transformers"]["transformers_tokens_per_second"]),
    )
    row("ratio, answer by answer", lambda e: _spread(e["against_transformers"]["ratio"], 2))
    row("answers equal to transformers'", lambda e: _equal(e["against_transformers"]))
    for i, rows in enumerate(cost["rows"] for cost in report["engines"][0]["cost_of_exactness"]):
        row(f"exact pass, {rows} rows, ms", lambda e, i=i: _spread(e["cost_of_exactness"][i]["exact_ms"]))
        row(f"fastest pass, {rows} rows, ms", lambda e, i=i: _spread(e["cost_of_exactness"][i]["fast_ms"]))
        row(f"exact ÷ fastest, {rows} rows", lambda e, i=i: _spread(e["cost_of_exactness"][i]["ratio"], 2))
    for i, gain in enumerate(report["engines"][0]["gain_of_company"]):
        shape = f"{gain['sessions']} sessions of {gain['rows']} rows"
        row(f"{shape} in one pass, ms", lambda e, i=i: _spread(e["gain_of_company"][i]["together_ms"]))
        row(f"{shape} one after another, ms", lambda e, i=i: _spread(e["gain_of_company"][i]["in_turn_ms"]))
        row("in one pass ÷ one after another", lambda e, i=i: _spread(e["gain_of_company"][i]["ratio"], 2))
    for i, at in enumerate(own["temperature"] for own in report["engines"][0]["own_time"]):
        row(f"our own time per round at T = {at:g}, ms", lambda e, i=i: f"{e['own_time'][i]['ms_per_round']:.2f}")
    lines += [
        "",
        f"On the wire, one node with {report['drafter']} on a loopback link, WebSocket payload both ways:",
        "",
        "| temperature | drafted tokens | bytes up | bytes down | bytes per drafted token | accepted per round |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {w['temperature']:g} | {w['drafted']} | {w['bytes_up']} | {w['bytes_down']} "
        f"| {w['bytes_per_drafted_token']:.1f} | {w['accepted'] / w['rounds']:.2f} |"
        for w in report["wire"]
    ]
    return "\n".join(lines)


def _spread(values: dict[str, float], digits: int = 1) -> str:
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"


def _equal(against: dict[str, Any]) -> str:
    answers, equal = against["answers"], against["equal_answers"]
    if equal == answers:
        return f"{equal} of {answers}"
    return f"{equal} of {answers}; {against['differing_below_1e-4']} of the others at a margin < 1e-4"
