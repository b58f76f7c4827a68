"""What a node's operator decides. Built once at the edge (file, variables, flags) and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wanspec_p2p.config import check_length, check_range
from wanspec_p2p.links.home import check_urls
from wanspec_p2p.links.membership import Introduction
from wanspec_p2p.protocol import limits
from wanspec_p2p.types import Dtype

__all__ = ["NodeSettings"]

MAX_SLOTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Settings of one node daemon.

    Args:
        data_dir: the identity (`identity.pem`) and the membership (`coordinator.json`) live here.
        cache_dir: where models are kept; can be shared by any number of nodes.
        model: a catalog name, `ngram[:TOKENIZER_MODEL]`, or a directory.
        join: a join token; needed the first time only, and again to move to another coordinator.
        coordinator_urls: where else the coordinator may be reached, tried in turn where it was reached last does not
            answer; it has to prove the same key everywhere.
        name: what people call this node. Decides nothing.
        owner, site: who lends it and where it stands; drafters of one session come from different ones. Like the
            name, None takes what was said when the node joined, else the host name and "unknown".
        slots: sessions it drafts for at once.
        threads: CPU threads of the model; None lets the engine choose.
        dtype: None lets the engine choose.
        max_prefix: longest prefix, in tokens, this node drafts for; None is what the model's context holds.
        discover: let announcements on the local network say where the coordinator is now; its key still decides.
        log_json: one JSON object a line instead of lines for people.

    Raises:
        ValueError: a value outside its range.
    """

    data_dir: Path
    cache_dir: Path
    model: str = "smollm2-draft"
    join: str | None = field(default=None, repr=False)
    coordinator_urls: tuple[str, ...] = ()
    name: str | None = None
    owner: str | None = None
    site: str | None = None
    slots: int = 4
    threads: int | None = None
    dtype: Dtype | None = None
    max_prefix: int | None = None
    discover: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "owner", "site"):
            check_length(self, name, limits.MAX_NAME)
        check_urls(self.coordinator_urls)
        check_range(self, "slots", 1, MAX_SLOTS)
        check_range(self, "threads", 1)
        check_range(self, "max_prefix", 1)
        if not self.model:
            raise ValueError("model must name a model")

    @property
    def lock_file(self) -> Path:
        return self.data_dir / "node.lock"

    @property
    def said(self) -> Introduction:
        return Introduction(self.name, self.owner, self.site)
