"""Fetch a model of the hub: safetensors, configuration and tokenizer, nothing that could run."""

from __future__ import annotations

from pathlib import Path

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.pull import Progress

__all__ = ["download_snapshot"]

WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]


def download_snapshot(name: str, progress: Progress) -> Path:
    """The local directory of `owner/model` or `owner/model@revision`, from the hub's own cache if it is there.

    Raises:
        ModelError: huggingface_hub is missing, the model does not exist, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModelError(f"hub models need the extra [node] or [target]: {error}") from error
    owner_and_name, _, revision = name.partition("@")
    progress(f"download {name}", 0, 0)
    try:
        folder = snapshot_download(owner_and_name, revision=revision or None, allow_patterns=WANTED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the hub did not give {name}: {reason}") from error
    progress(f"download {name}", 1, 1)
    return Path(folder)
