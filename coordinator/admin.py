"""What an operator does from another process: join tokens and API keys are made and listed, and whoever was let in is
turned away.

Safe while the coordinator runs.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from coordinator import addresses, statements
from coordinator.schema import open_database
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.protocol import limits
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import PeerId, Role

__all__ = [
    "ApiKey",
    "OpenToken",
    "Peer",
    "api_keys",
    "create_api_key",
    "has_run",
    "issue_join_token",
    "keys_are_needed",
    "open_join_tokens",
    "peers",
    "revoke_all_join_tokens",
    "revoke_api_key",
    "revoke_join_token",
    "revoke_peer",
]

API_KEY_PREFIX = "wsk-"
"""So that people, and scanners of repositories, see what leaked."""


def has_run(settings: CoordinatorSettings) -> bool:
    """Whether this data directory is that of a coordinator: one has run in it or was restored there, or will run, and a
    token of it was made before.
    """
    return settings.ledger_file.exists()


def issue_join_token(
    settings: CoordinatorSettings,
    *,
    role: Role,
    pool: str = "default",
    ttl: float = 3600,
    url: str | None = None,
    uses: int = 1,
    clock: Clock | None = None,
    new_secret: Callable[[int], str] = secrets.token_urlsafe,
) -> JoinToken:
    """A token that admits `uses` peers of one role to one pool.

    It may be made before the first start where the settings say at which port or URL the coordinator will be reached;
    elsewhere a directory without a ledger is somebody's mistake.

    Args:
        ttl: seconds until it expires.
        url: where peers dial, if it is not where the coordinator of this data directory was last reached.

    Raises:
        ConfigError: the role, the pool or the numbers make no sense, no coordinator has run here, or peers could not
            dial what they would be given.
        UsageError: the data directory cannot be used.
    """
    if role is Role.COORDINATOR:
        raise ConfigError("a join token admits a node or a target")
    if not 1 <= len(pool) <= limits.MAX_NAME:
        raise ConfigError(f"a pool's name has between 1 and {limits.MAX_NAME} characters")
    if not 0 < ttl <= 10 * 365 * 86400:
        raise ConfigError("a join token must live longer than 0 seconds, and at most ten years")
    if not 1 <= uses <= 100_000:
        raise ConfigError("a join token admits between 1 and 100000 peers")
    if settings.public_url is None and not settings.port:
        _known(settings)
    clock = clock or SystemClock()
    reached = addresses.to_dial(settings, url)
    certificate = addresses.to_pin(settings, reached, clock)
    identity = Identity.load_or_create(settings.identity_file)
    now = clock.wall()
    expires, secret = int(now + ttl), new_secret(24)
    with _transaction(settings) as database:
        statements.add_join_secret(database, secret, role=role, pool=pool, expires=expires, uses=uses, now=now)
    return JoinToken(
        url=reached.peers,
        coordinator=identity.public_key,
        certificate=certificate,
        secret=secret,
        role=role,
        pool=pool,
        expires=expires,
    )


def create_api_key(
    settings: CoordinatorSettings,
    name: str,
    *,
    clock: Clock | None = None,
    new_secret: Callable[[int], str] = secrets.token_urlsafe,
) -> str:
    """A new API key; it is shown once and only its hash is kept. From the first one on, every request needs one.

    Raises:
        ConfigError: there is a key of this name, or no coordinator has run here.
    """
    if not 1 <= len(name) <= limits.MAX_NAME:
        raise ConfigError(f"an API key's name has between 1 and {limits.MAX_NAME} characters")
    key = API_KEY_PREFIX + new_secret(32)
    with _transaction(_known(settings)) as database:
        statements.add_api_key(database, name, key, (clock or SystemClock()).wall())
    return key


def keys_are_needed(settings: CoordinatorSettings) -> bool:
    """Whether requests need an API key even of local users: one was made before, or the coordinator is exposed.

    Whether it is, it has decided by flags that nobody else is given; whoever is answered in plain HTTP is local.

    Raises:
        ConfigError: no coordinator has run here.
    """
    reached = addresses.load(_known(settings))
    if settings.exposed or (reached is not None and not reached.http.startswith("http:")):
        return True
    with _transaction(settings) as database:
        return statements.api_keys_exist(database)


class Peer(NamedTuple):
    """As it enrolled."""

    peer: PeerId
    role: Role
    name: str
    owner: str
    site: str
    pool: str
    enrolled: float  # seconds since the Unix epoch


class ApiKey(NamedTuple):
    """One that is accepted; of the key itself only a hash is kept."""

    name: str
    created: float  # seconds since the Unix epoch


class OpenToken(NamedTuple):
    """A join token that would still admit somebody. The token itself is not kept."""

    role: Role
    pool: str
    uses_left: int
    expires: float  # seconds since the Unix epoch


def peers(settings: CoordinatorSettings) -> Sequence[Peer]:
    """Whoever is enrolled, here at the moment or not.

    Raises:
        ConfigError: no coordinator has run here.
    """
    with _transaction(_known(settings)) as database:
        return [_peer(row) for row in statements.enrolments(database)]


def api_keys(settings: CoordinatorSettings) -> Sequence[ApiKey]:
    """Those that are accepted.

    Raises:
        ConfigError: no coordinator has run here.
    """
    with _transaction(_known(settings)) as database:
        return [ApiKey(*row) for row in statements.api_keys(database)]


def open_join_tokens(settings: CoordinatorSettings, *, clock: Clock | None = None) -> Sequence[OpenToken]:
    """Those that are neither used up nor expired, the next to expire first.

    Raises:
        ConfigError: no coordinator has run here.
    """
    now = (clock or SystemClock()).wall()
    with _transaction(_known(settings)) as database:
        rows = statements.open_join_secrets(database, now)
    return [OpenToken(Role(role), pool, uses_left, expires) for role, pool, uses_left, expires in rows]


def _peer(row: tuple[str, str, str, str, str, str, float]) -> Peer:
    peer, role, name, owner, site, pool, enrolled = row
    return Peer(PeerId(peer), Role(role), name, owner, site, pool, enrolled)


def revoke_api_key(settings: CoordinatorSettings, key: str) -> str:
    """Refuse a key, named as it was made or given whole, from the next request on; its name.

    Keys are needed after the last one too: a coordinator on loopback asks for none only until the first is made.

    Raises:
        ConfigError: there is none, or no coordinator has run here.
    """
    with _transaction(_known(settings)) as database:
        name = statements.remove_api_key(database, key)
    if name is None:
        raise ConfigError("there is no such API key: give its name, or all of it")
    return name


def revoke_peer(settings: CoordinatorSettings, peer: str) -> Peer:
    """Forget a node or a target by its id, the beginning of it, or the name it enrolled with: when it connects again,
    it is not enrolled.

    Raises:
        ConfigError: there is none, or there are several, or no coordinator has run here.
    """
    with _transaction(_known(settings)) as database:
        found = statements.enrolled(database, peer)
        if not peer or not found:
            raise ConfigError(
                f"no node or target {peer!r} is enrolled: give an id, the beginning of one, or a name that "
                "`wanspec coordinator list peers` shows"
            )
        if len(found) > 1:
            raise ConfigError(f"{peer!r} may be several of those enrolled: give more of the id")
        gone = _peer(found[0])
        statements.disenrol(database, gone.peer)
    return gone


def revoke_join_token(settings: CoordinatorSettings, token: JoinToken) -> None:
    """Let nobody in by it any more; whoever came by it stays.

    Raises:
        ConfigError: it is not one of this coordinator's, or none has run here.
    """
    with _transaction(_known(settings)) as database:
        known = statements.spend_join_secret(database, token.secret)
    if not known:
        raise ConfigError("the join token is not one of this coordinator's")


def revoke_all_join_tokens(settings: CoordinatorSettings, *, clock: Clock | None = None) -> int:
    """Let nobody in by any token given out so far; how many there were that still would have.

    Raises:
        ConfigError: no coordinator has run here.
    """
    now = (clock or SystemClock()).wall()
    with _transaction(_known(settings)) as database:
        return statements.spend_join_secrets(database, now)


def _known(settings: CoordinatorSettings) -> CoordinatorSettings:
    """Opening a ledger makes one, and nobody would know of it."""
    if not has_run(settings):
        raise ConfigError(f"no coordinator has run in {settings.data_dir}: name its --data-dir")
    return settings


@contextlib.contextmanager
def _transaction(settings: CoordinatorSettings) -> Iterator[sqlite3.Connection]:
    database = open_database(settings.ledger_file)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger {settings.ledger_file} cannot be written: {error}") from error
    finally:
        database.close()  # without a COMMIT before, nothing has been written
