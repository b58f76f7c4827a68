"""The coordinator's key and certificate, and how they change. Who knows an old one is shown the way to the present."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from coordinator import addresses
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import locked
from wanspec_p2p.security.certificate_succession import leads_to
from wanspec_p2p.security.files import write_whole
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import CERTIFICATE, names_host, replace_certificate
from wanspec_p2p.security.succession import MAX_SUCCESSIONS, Succession, hand_on, leading_to
from wanspec_p2p.security.tls import fingerprint

__all__ = ["rotate", "rotate_certificate", "succession"]


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
    # A running one would go on with the old key, and tokens would name the new.
    with locked(settings.lock_file, "coordinator"):
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


def rotate_certificate(settings: CoordinatorSettings, *, clock: Clock | None = None) -> tuple[str, str]:
    """Give the coordinator another certificate of its own, that its old one signs. Returns the fingerprints (old, new).

    It is made for the host at which the coordinator was last reached, and for this machine's own names where the old
    one is.

    Raises:
        ConfigError: the coordinator runs (stop it first), shows no certificate of its own making, or cannot write.
        UsageError: a file cannot be used.
    """
    own = settings.certificate_dir / CERTIFICATE
    if not own.exists():
        raise ConfigError(
            f"there is no certificate {own}: one that the coordinator was given (--tls-cert, --proxy-cert) is replaced "
            "where it came from"
        )
    # A running one would go on with the old one, and tokens would name the new.
    with locked(settings.lock_file, "coordinator"):
        reached = addresses.load(settings)
        if reached is not None and not _shown(reached, own):
            raise ConfigError(
                f"when the coordinator ran last, peers were shown another certificate than {own} (--tls-cert, "
                "--proxy-cert), or none: replace that one"
            )
        host = urlsplit(reached.peers).hostname if reached is not None else None
        hosts = addresses.certified_hosts(settings) if host is None else addresses.names_of(host, *_everywhere(own))
        old, new = replace_certificate(settings.certificate_dir, *hosts, clock=clock or SystemClock())
        if reached is not None:
            addresses.store(settings, msgspec.structs.replace(reached, certificate=addresses.pem_of(new)))
    return fingerprint(old), fingerprint(new)


def _everywhere(own: Path) -> tuple[str, ...]:
    """0.0.0.0 if the coordinator listened on every address when it made this one, which nothing else remembers."""
    return ("0.0.0.0",) if any(names_host(own, host) for host in ("localhost", "0.0.0.0", "::")) else ()


def _shown(reached: addresses.Addresses, own: Path) -> bool:
    """This one, or one that it came after: a change that was broken off may have got further than this file."""
    if reached.certificate is None:
        return False
    return leads_to(addresses.certificate_der(own), addresses.fingerprint_of(reached.certificate))
