from __future__ import annotations

import shutil
from pathlib import Path

from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.copying import COPYING_FILE
from wanspec_p2p.models.distill.figures import Answer
from wanspec_p2p.models.distill.judge import Contender, judge
from wanspec_p2p.models.distill.torch_answers import write_answers
from wanspec_p2p.models.torch_device import choose_device
from wanspec_p2p.types import Device, Dtype


async def test_drafters_stand_beside_each_other_at_each_temperature(
    target: object, target_directory: Path, tmp_path: Path
) -> None:
    answers: list[Answer] = []
    for temperature in (0.0, 0.8):
        answers += write_answers(
            target,
            [("one", [257, 72, 105]), ("two", [257, 72, 111, 63])],
            tokens=12,
            temperature=temperature,
            eos=frozenset(),
            vocab_size=258,
        )
    told: list[tuple[str, int, int]] = []
    name = str(target_directory)
    found = await judge(
        {"itself": Contender(name), "n-gram lookup": Contender(f"ngram:{name}")},
        name,
        answers,
        catalog=Catalog(tmp_path),
        placement=choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    standing = {(s.drafter, s.temperature): s for s in found.standings}
    assert list(standing) == [("itself", 0.0), ("itself", 0.8), ("n-gram lookup", 0.0), ("n-gram lookup", 0.8)]
    for temperature in (0.0, 0.8):
        itself = standing["itself", temperature]
        assert itself.figures.overall.alpha == 1.0
        assert itself.figures.overall.positions == 24
        assert set(itself.figures.by_category) == {"one", "two"}
        assert standing["n-gram lookup", temperature].figures.overall.alpha < 1.0
    assert set(found.costs) == {"itself", "n-gram lookup"}
    assert min(found.costs["itself"].draft, found.costs["itself"].verify) > 0
    assert told[-1] == ("judge n-gram lookup", 4, 4)


async def test_a_drafter_is_judged_with_and_without_what_it_copies(target_directory: Path, tmp_path: Path) -> None:
    copying = Path(shutil.copytree(target_directory, tmp_path / "copying"))
    (copying / COPYING_FILE).write_text('{"lengths": [1], "weights": [0.999]}')
    # What no model of random weights expects: the same four tokens over and over.
    answers = [Answer("loop", (65, 66, 67, 68) * 2, (65, 66, 67, 68) * 3, 0.0, bytes(16))]
    found = await judge(
        {"copying": Contender(str(copying)), "not": Contender(str(copying), copying=False)},
        str(copying),
        answers,
        catalog=Catalog(tmp_path / "cache"),
        placement=choose_device(device=Device.CPU, dtype=Dtype.FLOAT32, threads=1),
        progress=lambda what, done, total: None,
    )
    alphas = {standing.drafter: standing.figures.overall.alpha for standing in found.standings}
    assert alphas["copying"] == 1.0
    assert alphas["not"] < 0.5
