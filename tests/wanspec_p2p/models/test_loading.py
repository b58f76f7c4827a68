from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from wanspec_p2p.errors import ConfigError, ModelError
from wanspec_p2p.models.catalog import Catalog
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


async def test_the_ngram_drafter_takes_another_models_tokenizer(tiny_directory: Path, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    model = await load_language_model(f"ngram:{tiny_directory}", catalog=catalog, threads=None, dtype=None)
    assert (model.info.name, model.info.vocab_size, model.info.context, model.info.eos) == ("ngram", 258, 512, (256,))
    assert model.info.tokenizer == load_tokenizer(str(tiny_directory), catalog=catalog).fingerprint


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
