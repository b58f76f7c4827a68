"""What a target's operator decides. Built once at the edge (file, variables, flags) and frozen."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from wanspec_p2p.config import check_length, check_range
from wanspec_p2p.links import draft_address
from wanspec_p2p.links.home import check_urls
from wanspec_p2p.links.membership import Introduction
from wanspec_p2p.protocol import limits
from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.policy import MAX_PRICE, LocalDrafting, Policy
from wanspec_p2p.types import Dtype

__all__ = ["TargetSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """Settings of one target service.

    Args:
        data_dir: the identity (`identity.pem`), the membership (`coordinator.json`) and a self-made certificate.
        cache_dir: where models are kept.
        model: a catalog name or a directory.
        join: a join token; needed the first time only, and again to move to another coordinator.
        coordinator_urls: where else the coordinator may be reached, tried in turn where it was reached last does not
            answer; it has to prove the same key everywhere.
        name, owner, site: what people call this target, who runs it and where it stands. None takes what was said when
            it joined, else the host name and "unknown".
        host, port: where nodes dial; port 0 takes any. Off loopback the address must be reachable for nodes.
        address: the URL nodes dial where it differs from host and port (behind a proxy or in a container).
        tls_cert, tls_key: the operator's own certificate; without them one is made (and pinned through leases).
        slots: sessions served at once; `queue` more wait.
        drafters: drafters per session.
        local_drafter: model of the target's own drafter, used where no node's drafts are and it pays; None: none.
        local_price: how much dearer than its time a pass of it is held to be: more spares passes, in the end for time.
        width: draft tokens verified in one pass.
        positions, tokens: credit of each drafter (beyond the committed length; outstanding).
        network: False decodes everything alone.
        threads, dtype: None lets the engine choose.

    Raises:
        ValueError: a value outside its range.
    """

    data_dir: Path
    cache_dir: Path
    model: str = "smollm2-135m"
    join: str | None = field(default=None, repr=False)
    coordinator_urls: tuple[str, ...] = ()
    name: str | None = None
    owner: str | None = None
    site: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    address: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    slots: int = 8
    queue: int = 64
    drafters: int = 2
    local_drafter: str | None = None
    local_price: float = LocalDrafting().price
    width: int = 63
    positions: int = 64
    tokens: int = 1024
    network: bool = True
    threads: int | None = None
    dtype: Dtype | None = None
    log_json: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "owner", "site"):
            check_length(self, name, limits.MAX_NAME)
        check_urls(self.coordinator_urls)
        check_range(self, "port", 0, 65535)
        check_range(self, "slots", 1, 4096)
        check_range(self, "queue", 0, 65536)
        check_range(self, "drafters", 0, limits.MAX_DRAFTERS)
        check_range(self, "local_price", 0, MAX_PRICE)
        check_range(self, "width", 1, limits.MAX_TOKENS_PER_ROUND - 1)  # a round settles one more
        check_range(self, "positions", 1, limits.MAX_WINDOW)
        check_range(self, "tokens", 1, limits.MAX_WINDOW)
        check_range(self, "threads", 1)
        if self.address is not None and not _is_dialled(self.address):
            kind = f"a wss:// URL (or a ws:// one on this machine) with the path {draft_address.DRAFT_PATH}"
            raise ValueError(f"address must be {kind}, not {self.address!r}")
        if self.address is None and self.host in ("0.0.0.0", "::"):
            raise ValueError(f"nodes cannot dial {self.host}: name the address that reaches this machine (address)")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")

    @property
    def lock_file(self) -> Path:
        return self.data_dir / "target.lock"

    @property
    def said(self) -> Introduction:
        return Introduction(self.name, self.owner, self.site)

    @property
    def policy(self) -> Policy:
        window = Window(self.positions, self.tokens)
        return Policy(width=self.width, window=window, local=LocalDrafting(price=self.local_price))


def _is_dialled(address: str) -> bool:
    return re.fullmatch(r"[!-~]{1,500}", address) is not None and draft_address.parse(address) is not None
