"""A transformers directory that we did not make: what is refused, and its digests remembered between starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.digests import Manifest, read_manifest, record_files, save_manifest
from wanspec_p2p.types import TokenId

__all__ = [
    "check_directory",
    "directory_manifest",
    "eos_named",
    "named_size",
    "read_config",
    "read_tokenizer_config",
]

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
COUNTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


def check_directory(directory: Path) -> None:
    """Refuse what could run code or cannot be loaded.

    Raises:
        ModelError: no configuration or no safetensors weights, pickled weights, weights from elsewhere than the digest
            covers, or code of the model's own.
    """
    config = read_config(directory)
    if not any(directory.glob("*.safetensors")):
        pickled = next((path.name for pattern in PICKLES for path in directory.glob(pattern)), None)
        if pickled is not None:
            raise ModelError(
                f"{directory} holds pickled weights ({pickled}), which can run code when opened: "
                "convert them to safetensors first"
            )
        raise ModelError(f"{directory} holds no *.safetensors weights")
    _check_named_weights(directory, config)
    for name in ("config.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file() and (config if name == "config.json" else _read_json(path)).get("auto_map"):
            raise ModelError(f"{path} asks for code of its own (auto_map), which is never run here: use another model")


def _check_named_weights(directory: Path, config: dict[str, Any]) -> None:
    """transformers reads whatever file these name, pickles too; we read safetensors that lie in the directory."""
    if config.get("transformers_weights") is not None:
        raise ModelError(f"{directory / 'config.json'} names its weights (transformers_weights): take that out")
    if (directory / "adapter_config.json").is_file():
        raise ModelError(
            f"{directory} holds adapter_config.json: merge the adapter into the weights, and take that out"
        )
    if not (directory / INDEX).is_file():
        return
    named = _read_json(directory / INDEX).get("weight_map")
    if not isinstance(named, dict):
        raise ModelError(f"{directory / INDEX} has no weight_map: fetch it again")
    for file in named.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or {"/", "\\"} & set(file):
            raise ModelError(f"{directory / INDEX} names {file!r}, which is no safetensors file beside it")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a model directory.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(f"{directory} is no transformers model: it has no config.json")
    return _read_json(path)


def named_size(config: Mapping[str, Any], name: str) -> int | None:
    """A size that config.json names; None where it names none, or 0.

    Raises:
        ModelError: it is no whole number, or below 0.
    """
    value = config.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise ModelError(f"{name} is {value!r}, which is no size: mend config.json")
    return value or None


def eos_named(named: object, file: str) -> tuple[TokenId, ...]:
    """The ids that an `eos_token_id` names: one, several or none.

    Args:
        file: where to mend it.

    Raises:
        ModelError: what it names is no id.
    """
    tokens = tuple(named) if isinstance(named, list | tuple) else () if named is None else (named,)
    if not all(isinstance(token, int) for token in tokens):
        raise ModelError(f"eos_token_id is {named!r}, which is no token id: mend {file}")
    return tokens


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json of a model directory; empty where there is none.

    Raises:
        ModelError: it is no JSON object.
    """
    path = directory / "tokenizer_config.json"
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object")
    return value


def directory_manifest(directory: Path, remembered: Path) -> Manifest:
    """The digests of `directory`, taken anew only when a file's name, size or time changed since the last start.

    Args:
        remembered: the folder that keeps them, because a user's directory is not ours to write to.
    """
    directory = directory.resolve()
    names = sorted({path.name for pattern in COUNTED for path in directory.glob(pattern)})
    store = remembered / hashlib.sha256(str(directory).encode()).hexdigest()[:32]
    manifest = read_manifest(store)
    if manifest is None or sorted(manifest.files) != names or any(manifest.changed(directory)):
        manifest = Manifest(source=str(directory), files=record_files(directory, names))
        store.mkdir(parents=True, exist_ok=True)
        save_manifest(store, manifest)
    return manifest
