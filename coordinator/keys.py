"""The coordinator's key, and how it is changed. Peers that know an old key are shown the way to the present one."""

from __future__ import annotations

import msgspec

from coordinator.lock import locked
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.files import write_whole
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.succession import MAX_SUCCESSIONS, Succession, hand_on, leading_to

__all__ = ["rotate", "succession"]


def succession(settings: CoordinatorSettings, identity: Identity) -> tuple[Succession, ...]:
    """The statements that lead from earlier keys to this one.

    Raises:
        ConfigError: the file cannot be read or is damaged.
    """
    path = settings.succession_file
    try:
        chain = msgspec.json.decode(path.read_bytes(), type=tuple[Succession, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): restore a copy, or move it away (peers that know an old key alone then "
            "have to join again)"
        ) from error
    return leading_to(chain, identity.public_key)[-MAX_SUCCESSIONS:]


def rotate(settings: CoordinatorSettings, *, clock: Clock | None = None) -> tuple[Identity, Identity]:
    """Give the coordinator a new key that its old one signs; the old one is gone afterwards. Returns (old, new).

    Written in this order, a crash leaves either key in place: a statement for a key that never came is passed over.

    Raises:
        ConfigError: the coordinator runs (stop it first), has no key yet, or cannot write its directory.
        UsageError: the key file cannot be used.
    """
    if not settings.identity_file.exists():
        raise ConfigError(
            f"there is no key in {settings.data_dir} yet: start the coordinator once, or name its --data-dir"
        )
    with locked(settings.lock_file):  # a running one would go on with the old key, and tokens would name the new
        old, new = Identity.load_or_create(settings.identity_file), Identity.generate()
        statement = hand_on(old, new, issued=int((clock or SystemClock()).wall()))
        chain = (*succession(settings, old), statement)[-MAX_SUCCESSIONS:]
        try:
            write_whole(
                settings.succession_file, msgspec.json.format(msgspec.json.encode(chain), indent=2), private=True
            )
            new.replace(settings.identity_file)
        except OSError as error:
            raise ConfigError(f"{settings.data_dir} cannot be written: {error.strerror}; the old key stays") from error
    return old, new
