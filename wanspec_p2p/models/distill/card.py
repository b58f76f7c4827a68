"""What a drafter is, how it was made and what it is worth: README.md beside its weights, and a figure."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanspec_p2p.models.copying import COPYING_FILE, CopyWeights, read_weights
from wanspec_p2p.models.digests import sha256_file
from wanspec_p2p.models.distill.files import replace_file
from wanspec_p2p.models.distill.judge import Standing

if TYPE_CHECKING:
    from wanspec_p2p.models.distill.job import Report
    from wanspec_p2p.models.distill.plan import Plan

__all__ = ["figures_table", "write_card"]


def write_card(report: Report, folder: Path, target_config: dict[str, Any]) -> None:
    """Write `folder`/drafter/README.md and `folder`/report.svg.

    Raises:
        ConfigError: the disk is full, or not to be written to.
    """
    weights = read_weights(folder / "drafter")
    text = _card(report, sha256_file(folder / "layers.safetensors"), weights, target_config)
    replace_file(folder / "drafter" / "README.md", text.encode())
    replace_file(folder / "report.svg", _figure(report))


def _card(report: Report, sha256: str, weights: CopyWeights | None, target_config: dict[str, Any]) -> str:
    plan, schedule = report.plan, report.plan.schedule
    layers = f"layer{'s' * (len(plan.layers) > 1)} {', '.join(map(str, plan.layers))}"
    # Its last two folders: where they lie is nobody's business.
    begun = f"the layers of {'/'.join(Path(plan.start).parts[-2:])}" if plan.start else f"the target's {layers}"
    brought = f", half of them answers to {report.brought:,} prompts that were brought" if report.brought else ""
    width = f", MLPs narrowed to {plan.width} neurons" if plan.width else ""
    rows = [
        (
            "what",
            f"a drafter of {_layers(plan)} for {report.target}, begun from {begun}{width}; the final "
            "norm was trained too; the embedding is the target's, frozen",
        ),
        ("target", f"{report.target} ({target_config.get('model_type', '')}), weights {report.target_digest}"),
        ("made by", f"`{report.command}`"),
        ("machine", report.machine),
        (
            "trained on",
            f"{report.generated:,} tokens in {report.dialogues:,} dialogues that the target wrote by itself, both "
            f"sides{brought}, at temperatures 0, 0.5, 0.8 and 1.0; {report.trained:,} tokens with every epoch counted",
        ),
        (
            "how",
            f"cross-entropy to the target's law (its 32 likeliest tokens) and, at half that weight, to its best "
            f"token; Muon and AdamW, peak rate {schedule.peak:g}, batches of {schedule.batch_tokens:,} tokens, "
            f"{schedule.epochs:g} epochs, seed {plan.seed}",
        ),
        ("copying", _copying(weights)),
        (
            "files",
            f"`layers.safetensors`, the trained weights alone, bfloat16, sha256 {sha256}; `drafter/`, a complete "
            "directory that transformers loads",
        ),
        ("licence", "that of the target, whose layers and words it is made from"),
    ]
    what = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"""# A drafter for {report.target}

| | |
|---|---|
{what}

{figures_table(report.judgement.standings)}

α is the share of positions of the target's own answers, to prompts never trained on, where the drafter's first
candidate is the target's token, given all before it; the ranks say which of its candidates was; accepted per round is
for chains of 7. At temperature 0.8 both draw with the same noise. "Beside" is the expected speed with drafter and
target in turn on one machine at the best chain length, from the step times measured there; "remote, at most" with
drafts that always arrive in time.

{_by_category(report.judgement.standings)}

{_costs(report)}

Limits: its text alone is poor. It is meant for drafting, and for nothing else.
"""


def _copying(weights: CopyWeights | None) -> str:
    if weights is None:
        return "none: no dialogue held back had anything to copy"
    groups = zip(weights.lengths, weights.weights, strict=True)
    told = ", ".join(f"{weight:.2f} from {length}" for length, weight in groups)
    return (
        "served by `wanspec`, it also copies what followed the longest match of the text's end; the share of copies "
        f"in its law, by tokens that match, was fitted on dialogues held back: {told} (`drafter/{COPYING_FILE}`)"
    )


def _layers(plan: Plan) -> str:
    return f"{len(plan.layers)} layer{'s' * (len(plan.layers) > 1)}"


def figures_table(standings: Sequence[Standing]) -> str:
    """Markdown: one line a drafter and temperature."""
    names = ("drafter", "temperature", "α", "rank 1 / 2 / 3 / 4 / later", "accepted per round", "beside (K)")
    lines = [f"| {' | '.join(names)} | remote, at most |", "|---" * (len(names) + 1) + "|"]
    for s in standings:
        ranks = " / ".join(f"{share:.3f}" for share in s.figures.overall.ranks)
        lines.append(
            f"| {s.drafter} | {s.temperature:g} | {s.figures.overall.alpha:.3f} | {ranks} "
            f"| {s.figures.accepted_per_round[-1]:.2f} | {s.speedup_beside:.2f} × ({s.best_length}) "
            f"| {s.speedup_remote:.2f} × |"
        )
    return "\n".join(lines)


def _by_category(standings: Sequence[Standing]) -> str:
    kinds = list(standings[0].figures.by_category)
    # Categories come from a file that somebody brought.
    shown = (" ".join(kind.replace("|", "/").split()) for kind in kinds)
    lines = ["| α of | temperature | " + " | ".join(shown) + " |", "|---|---|" + "---|" * len(kinds)]
    for s in standings:
        own = [s.figures.by_category.get(kind) for kind in kinds]
        cells = " | ".join("-" if group is None else f"{group.alpha:.2f}" for group in own)
        lines.append(f"| {s.drafter} | {s.temperature:g} | {cells} |")
    trained = [s for s in standings if s.drafter == "trained"]
    lines += ["", "By position in the answer, and by depth in the chain given that all before were right:", ""]
    for s in trained:
        places = ", ".join(f"{name} {group.alpha:.2f}" for name, group in s.figures.by_position.items())
        depths = ", ".join(f"{share:.2f}" for share in s.figures.by_depth)
        lines.append(f"- temperature {s.temperature:g}: positions {places}; depths 1–7: {depths}")
    return "\n".join(lines)


def _costs(report: Report) -> str:
    own = report.judgement.costs["trained"]
    return (
        f"A pass of one token took {own.draft * 1e3:.1f} ms against the target's {own.target * 1e3:.1f} ms "
        f"({own.draft / own.target:.2f} of it), and the target's pass over eight rows {own.verify * 1e3:.1f} ms: "
        "medians, taken in turn."
    )


def _figure(report: Report) -> bytes:
    """As SVG, the same for the same report."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    greedy = [s for s in report.judgement.standings if math.isclose(s.temperature, 0.0)]
    look: dict[Any, Any] = {
        "svg.hashsalt": "wanspec",
        "text.parse_math": False,
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
    with plt.rc_context(look):
        figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
        growth, ranks, kinds, depth = axes.flat
        growth.plot([r.tokens / 1e6 for r in report.curve], [r.agreement for r in report.curve], marker=".")
        growth.set(title="agreement on dialogues held back", xlabel="million tokens trained on", ylim=(0, 1))
        _bars(ranks, ("1", "2", "3", "4", "later"), [(s.drafter, s.figures.overall.ranks) for s in greedy])
        ranks.set(title="rank of the target's token, temperature 0", xlabel="drafter's candidate")
        names = list(greedy[0].figures.by_category)
        by_kind = [(s.drafter, [s.figures.by_category[name].alpha for name in names]) for s in greedy]
        _bars(kinds, names, by_kind)
        kinds.set(title="α by kind of prompt, temperature 0", ylim=(0, 1))
        plt.setp(kinds.get_xticklabels(), rotation=40, ha="right", fontsize=7)
        for s in (s for s in report.judgement.standings if s.drafter == "trained"):
            label = f"temperature {s.temperature:g}"
            depth.plot(range(1, len(s.figures.by_depth) + 1), s.figures.by_depth, marker="o", label=label)
        depth.set(title="right, given that all before were", xlabel="depth in the chain", ylim=(0, 1))
        depth.legend()
        ranks.legend()
        figure.suptitle(f"a drafter of {_layers(report.plan)} for {report.target}")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    return drawn.getvalue()


def _bars(axes: Any, names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> None:
    width = 0.8 / max(len(series), 1)
    for at, (label, values) in enumerate(series):
        axes.bar([i + (at - (len(series) - 1) / 2) * width for i in range(len(names))], values, width, label=label)
    axes.set_xticks(range(len(names)), names)
