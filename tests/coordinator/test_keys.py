from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from coordinator import addresses, keys
from coordinator.keys import rotate, rotate_certificate, succession
from coordinator.settings import CoordinatorSettings
from tests.support.certificates import self_made
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.locking import locked
from wanspec_p2p.security.certificate_succession import leads_to
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import CERTIFICATE, load_or_create_certificate, names_host, replace_certificate
from wanspec_p2p.security.succession import MAX_SUCCESSIONS, follow
from wanspec_p2p.security.tls import fingerprint


@pytest.fixture
def first(settings: CoordinatorSettings) -> Identity:
    return Identity.load_or_create(settings.identity_file)


def now(settings: CoordinatorSettings) -> Identity:
    return Identity.load_or_create(settings.identity_file)


def test_a_key_that_was_never_changed_has_no_succession(settings: CoordinatorSettings, first: Identity) -> None:
    assert succession(settings, first) == ()


def test_the_old_key_leads_to_the_new_one_and_is_gone(settings: CoordinatorSettings, first: Identity) -> None:
    old, new = rotate(settings, clock=ManualClock())
    assert (old.peer_id, now(settings).public_key) == (first.peer_id, new.public_key)
    chain = succession(settings, new)
    assert follow(chain, first.peer_id) == new.public_key
    assert stat.S_IMODE(settings.identity_file.stat().st_mode) == 0o600
    secret = first._pem().splitlines()[1]
    assert all(secret not in file.read_bytes() for file in settings.data_dir.iterdir())


def test_the_last_changes_are_kept_and_no_more(settings: CoordinatorSettings, first: Identity) -> None:
    known = [first.peer_id, *(rotate(settings)[1].peer_id for _ in range(MAX_SUCCESSIONS + 1))]
    chain = succession(settings, now(settings))
    assert len(chain) == MAX_SUCCESSIONS
    assert all(follow(chain, peer) == now(settings).public_key for peer in known[1:-1])
    with pytest.raises(Exception, match="does not begin"):
        follow(chain, first.peer_id)


@pytest.mark.parametrize("at", [1, 2])
def test_a_crash_at_either_step_leaves_a_coordinator_that_starts(
    settings: CoordinatorSettings, first: Identity, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The statement is written first: until the key is there as well, it leads to a key that nobody has."""
    replace, steps = os.replace, 0

    def crash(source: Path, target: Path) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(ConfigError, match="No space left on device; the old key stays"):
            rotate(settings)
    assert now(settings).peer_id == first.peer_id
    assert succession(settings, first) == ()
    _, new = rotate(settings)
    assert follow(succession(settings, new), first.peer_id) == new.public_key


def test_a_running_coordinator_keeps_its_key(settings: CoordinatorSettings, first: Identity) -> None:
    with locked(settings.lock_file, "coordinator"), pytest.raises(ConfigError, match="another coordinator .* runs on"):
        rotate(settings)
    assert now(settings).peer_id == first.peer_id


def test_where_no_coordinator_ever_ran_none_is_made(settings: CoordinatorSettings) -> None:
    with pytest.raises(ConfigError, match="there is no key in .* yet"):
        rotate(settings)
    assert not settings.data_dir.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"old": "AA=="}]'])
def test_a_damaged_file_is_named_with_what_to_do(
    settings: CoordinatorSettings, first: Identity, content: bytes
) -> None:
    settings.succession_file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read .* restore a copy, or move it away"):
        succession(settings, first)
    with pytest.raises(ConfigError):
        rotate(settings)
    assert keys.Identity.load_or_create(settings.identity_file).peer_id == first.peer_id


# The certificate ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(settings: CoordinatorSettings) -> str:
    """The fingerprint of the certificate a coordinator has made, and shown when it ran."""
    certificate, _ = load_or_create_certificate(settings.certificate_dir, "llm.example", clock=ManualClock())
    pem = addresses.pem_of(addresses.certificate_der(certificate))
    addresses.store(settings, addresses.Addresses("https://llm.example:1", "wss://llm.example:1", pem))
    return addresses.fingerprint_of(pem)


def test_the_old_certificate_leads_to_the_new_one(settings: CoordinatorSettings, shown: str) -> None:
    old, new = rotate_certificate(settings, clock=ManualClock())
    pem = addresses.certificate_pem(settings, ManualClock())
    assert pem is not None and (old, new) == (shown, addresses.fingerprint_of(pem)), "what tokens and `ca` say"
    der = addresses.certificate_der(settings.certificate_dir / CERTIFICATE)
    assert fingerprint(der) == new and leads_to(der, shown)
    (name,) = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name == x509.DNSName("llm.example"), "the host it was reached at"
    _, third = rotate_certificate(settings, clock=ManualClock())
    assert third != new


@pytest.mark.parametrize("before", ["0.0.0.0", "localhost"])
def test_a_new_one_names_this_machine_where_the_coordinator_listens_everywhere(
    settings: CoordinatorSettings, before: str
) -> None:
    """Which its first certificate alone remembers; that of an earlier release named 0.0.0.0, and nothing else."""
    certificate, _ = load_or_create_certificate(settings.certificate_dir, before, clock=ManualClock())
    pem = addresses.pem_of(addresses.certificate_der(certificate))
    for reached in ("wss://0.0.0.0:1", "wss://llm.example:1"):
        addresses.store(settings, addresses.Addresses("https://…", reached, pem))
        rotate_certificate(settings, clock=ManualClock())
        assert all(names_host(certificate, host) for host in ("localhost", "127.0.0.1", "::1"))
        assert not names_host(certificate, "0.0.0.0")
        pem = addresses.pem_of(addresses.certificate_der(certificate))
    assert names_host(certificate, "llm.example")


def test_after_a_crash_before_its_address_was_written_it_can_be_changed_again(
    settings: CoordinatorSettings, shown: str
) -> None:
    replace_certificate(settings.certificate_dir, "llm.example", clock=ManualClock())
    _, new = rotate_certificate(settings, clock=ManualClock())
    assert leads_to(addresses.certificate_der(settings.certificate_dir / CERTIFICATE), shown)
    known = addresses.load(settings)
    assert known is not None and known.certificate is not None and addresses.fingerprint_of(known.certificate) == new


def test_a_running_coordinator_keeps_its_certificate(settings: CoordinatorSettings, shown: str) -> None:
    with locked(settings.lock_file, "coordinator"), pytest.raises(ConfigError, match="another coordinator .* runs on"):
        rotate_certificate(settings)
    assert fingerprint(addresses.certificate_der(settings.certificate_dir / CERTIFICATE)) == shown


def test_a_certificate_it_was_given_is_not_ours_to_change(
    settings: CoordinatorSettings, shown: str, tmp_path: Path
) -> None:
    given, _, _ = self_made(tmp_path)
    pem = addresses.pem_of(addresses.certificate_der(given))
    for certificate in (pem, None):
        addresses.store(settings, addresses.Addresses("https://llm.example:1", "wss://llm.example:1", certificate))
        with pytest.raises(ConfigError, match="peers were shown another certificate"):
            rotate_certificate(settings)


def test_where_no_certificate_was_made_none_is_changed(settings: CoordinatorSettings) -> None:
    with pytest.raises(ConfigError, match="there is no certificate .* is replaced where it came from"):
        rotate_certificate(settings)
    assert not settings.data_dir.exists()
