from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models import loading
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.copying import COPYING_FILE
from wanspec_p2p.models.loading import load_language_model, load_tokenizer
from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment


async def test_a_directory_becomes_a_model_and_its_tokenizer(tiny_directory: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    seen: list[tuple[str, int, int]] = []
    name = str(tiny_directory)
    model = await load_language_model(
        name, catalog=catalog, threads=1, dtype=Dtype.BFLOAT16, device=Device.CPU, progress=lambda *a: seen.append(a)
    )
    assert (model.info.name, model.info.digest) == (name, catalog.digest(name))
    assert (model.info.dtype, model.info.exactness) == (Dtype.BFLOAT16, ExactnessClass.BITWISE)
    assert seen == [(f"load {name}", 0, 1), (f"load {name}", 1, 1)]
    tokenizer = load_tokenizer(name, catalog=catalog)
    assert tokenizer.fingerprint == model.info.tokenizer
    [rows] = await model.forward([Segment("a", 0, (), tuple(tokenizer.encode("hello")))])
    assert np.isfinite(rows).all()
    await model.close()


@pytest.fixture
def copying_directory(tiny_directory: Path, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "copying"))
    (directory / COPYING_FILE).write_text('{"lengths": [1], "weights": [0.999]}')
    return directory


async def test_a_directory_that_says_how_becomes_a_drafter_that_copies(
    tiny_directory: Path, copying_directory: Path, tmp_path: Path
) -> None:
    catalog = Catalog(tmp_path / "cache")
    how: dict[str, Any] = {"catalog": catalog, "threads": 1, "dtype": Dtype.FLOAT32, "device": Device.CPU}
    copying = await load_language_model(str(copying_directory), **how)
    plain = await load_language_model(str(copying_directory), copying=False, **how)
    other = await load_language_model(str(tiny_directory), **how)
    assert copying.info.digest == plain.info.digest != other.info.digest
    assert len({model.info.fingerprint for model in (copying, plain, other)}) == 3
    asked = [Segment("a", 0, (), (65, 66, 67, 65))]
    [[row]], [[without]] = await copying.forward(asked), await plain.forward(asked)
    assert row.argmax() == 66 != without.argmax()
    assert np.flatnonzero(row != without).tolist() == [66]
    for model in (copying, plain, other):
        await model.close()


async def test_a_damaged_word_on_copying_is_one_line_before_anything_is_loaded(
    copying_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copying_directory / COPYING_FILE).write_text('{"lengths": [1]}')
    monkeypatch.setattr(loading, "_load_torch", lambda *a: pytest.fail("loaded"))
    with pytest.raises(ModelError, match=r"copying\.json cannot be used"):
        await load_language_model(str(copying_directory), catalog=Catalog(tmp_path / "cache"), threads=1, dtype=None)


async def test_the_ngram_drafter_takes_another_models_tokenizer(tiny_directory: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    model = await load_language_model(f"ngram:{tiny_directory}", catalog=catalog, threads=None, dtype=None)
    assert (model.info.name, model.info.vocab_size, model.info.context, model.info.eos) == ("ngram", 258, 512, (256,))
    assert model.info.tokenizer == load_tokenizer(str(tiny_directory), catalog=catalog).fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_position_embeddings": -5}, "max_position_embeddings is -5, which is no size"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings is 'x', which is no size"),
        ({"eos_token_id": ["x"]}, "eos_token_id is .*, which is no token id"),
    ],
)
async def test_what_the_ngram_drafter_is_told_of_a_model_must_be_true(
    tiny_directory: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    directory = Path(shutil.copytree(tiny_directory, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=said):
        await load_language_model(f"ngram:{directory}", catalog=Catalog(tmp_path / "c"), threads=None, dtype=None)


async def test_the_users_mistakes_are_one_line(tiny_directory: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    with pytest.raises(ModelError, match="no model 'nothing'"):
        await load_language_model("nothing", catalog=catalog, threads=None, dtype=None)
    with pytest.raises(ModelError, match="no model 'nothing'"):
        await load_language_model("ngram:nothing", catalog=catalog, threads=None, dtype=None)
    with pytest.raises(ConfigError, match="threads"):
        await load_language_model(str(tiny_directory), catalog=catalog, threads=0, dtype=None)


async def test_without_torch_the_extra_to_install_is_named(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch_engine", "torch_tokenizer"):
        monkeypatch.setitem(sys.modules, f"wanspec_p2p.models.{module}", None)
        monkeypatch.delattr(f"wanspec_p2p.models.{module}", raising=False)
    catalog = Catalog(tmp_path)
    with pytest.raises(ModelError, match=r"install wanspec-p2p with \[node\] or \[target\]"):
        await load_language_model(str(tiny_directory), catalog=catalog, threads=1, dtype=None)
    with pytest.raises(ModelError, match=r"install wanspec-p2p with \[node\] or \[target\]"):
        load_tokenizer(str(tiny_directory), catalog=catalog)
