from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import addresses
from coordinator.addresses import Addresses
from coordinator.settings import CoordinatorSettings
from tests.support.certificates import self_made
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.security.tls import certificate_fingerprint


@pytest.mark.parametrize(
    ("url", "http", "peers"),
    [
        ("http://127.0.0.1:1/", "http://127.0.0.1:1", "ws://127.0.0.1:1"),
        ("wss://llm.example/wan/", "https://llm.example/wan", "wss://llm.example/wan"),
    ],
)
def test_both_addresses_follow_from_either(url: str, http: str, peers: str) -> None:
    assert addresses.of_url(url) == Addresses(http, peers)


@pytest.mark.parametrize("url", ["", "llm.example", "ftp://x", "https://", "http://[::1"])
def test_what_is_no_address_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a coordinator's address"):
        addresses.of_url(url)


def test_addresses_of_a_listener(tmp_path: Path) -> None:
    loopback = CoordinatorSettings(data_dir=tmp_path, host="::1")
    assert addresses.of_settings(loopback, 5) == Addresses("http://[::1]:5", "ws://[::1]:5")
    wild = CoordinatorSettings(data_dir=tmp_path, host="0.0.0.0")
    reached = addresses.of_settings(wild, 5)
    assert reached == Addresses("https://0.0.0.0:5", "wss://0.0.0.0:5")
    assert not addresses.dialable(reached)


def test_what_was_stored_is_loaded(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path)
    assert addresses.load(settings) is None
    addresses.store(settings, Addresses("http://x", "ws://x"))
    assert addresses.load(settings) == Addresses("http://x", "ws://x")
    settings.address_file.write_text("{")
    with pytest.raises(ConfigError, match="start the coordinator again"):
        addresses.load(settings)


def test_which_certificate_is_shown(tmp_path: Path) -> None:
    clock = ManualClock()
    own, _ = load_or_create_certificate(tmp_path / "proxy", "llm.example", clock=clock)
    plain = CoordinatorSettings(data_dir=tmp_path)
    assert addresses.certificate_files(plain, clock) is None
    assert addresses.fingerprint_shown(plain, clock) is None
    behind = CoordinatorSettings(data_dir=tmp_path, public_url="https://llm.example", proxy_cert=own)
    assert addresses.certificate_files(behind, clock) is None
    assert addresses.fingerprint_shown(behind, clock) == certificate_fingerprint(own)
    outside = CoordinatorSettings(data_dir=tmp_path, host="10.0.0.1")
    files = addresses.certificate_files(outside, clock)
    assert files is not None
    assert files.certificate.parent == outside.certificate_dir
    with pytest.raises(ConfigError, match="cannot be read"):
        addresses.certificate_der(tmp_path / "nothing")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(ConfigError, match="does not hold a certificate"):
        addresses.certificate_der(tmp_path / "junk")


def test_a_certificate_of_our_own_is_made_for_every_name_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hosts(**settings: str) -> tuple[str, ...]:
        return addresses.certified_hosts(CoordinatorSettings(data_dir=tmp_path, **settings))  # type: ignore[arg-type]

    here = ("localhost", "127.0.0.1", "::1")
    for name, known in (("box", (*here, "box")), ("localhost", here), ("zürich", here), ("", here)):
        monkeypatch.setattr("socket.gethostname", lambda name=name: name)
        assert hosts(host="0.0.0.0") == hosts(host="::") == known
        assert hosts(host="0.0.0.0", public_url="https://llm.example:8443") == ("llm.example", *known)
    assert hosts(host="10.0.0.1") == ("10.0.0.1",)
    assert hosts(host="0.0.0.0", public_url="https://zürich.example")[0] == "zürich.example", "which is then refused"
    assert hosts(host="10.0.0.1", public_url="https://llm.example") == ("llm.example", "10.0.0.1")


def test_a_host_that_our_certificate_was_not_made_for_is_found(tmp_path: Path) -> None:
    def left_out(**settings: object) -> str | None:
        ours = CoordinatorSettings(data_dir=tmp_path, **settings)  # type: ignore[arg-type]
        files = addresses.certificate_files(ours, ManualClock())
        assert files is not None
        return addresses.host_left_out(ours, files.certificate)

    everywhere = {"host": "0.0.0.0"}
    assert left_out(**everywhere) is None
    assert left_out(**everywhere, public_url="https://127.0.0.1:8443") is None
    assert left_out(**everywhere, public_url="https://llm.example:8443") == "llm.example"
    given, key, _ = self_made(tmp_path)
    assert left_out(**everywhere, public_url="https://llm.example", tls_cert=given, tls_key=key) is None


def test_one_that_an_earlier_release_made_for_every_address_names_none(tmp_path: Path) -> None:
    ours = CoordinatorSettings(data_dir=tmp_path, host="0.0.0.0")
    certificate, _ = load_or_create_certificate(ours.certificate_dir, "0.0.0.0", clock=ManualClock())
    assert addresses.host_left_out(ours, certificate) == "localhost"


def test_beside_a_running_coordinator_the_certificate_is_the_one_it_shows(tmp_path: Path) -> None:
    """Its flags are nobody's business but its own: `wanspec coordinator token` is run without them."""
    clock = ManualClock()
    own, _ = load_or_create_certificate(tmp_path / "own", "llm.example", clock=clock)
    bare = CoordinatorSettings(data_dir=tmp_path)
    assert addresses.certificate_pem(bare, clock) is None
    assert addresses.certificate_pem(
        CoordinatorSettings(data_dir=tmp_path, public_url="https://llm.example", proxy_cert=own), clock
    ) == own.read_text(encoding="utf-8")
    addresses.store(bare, Addresses("https://x", "wss://x", own.read_text(encoding="utf-8")))
    pem = addresses.certificate_pem(bare, clock)
    assert pem is not None and addresses.fingerprint_of(pem) == certificate_fingerprint(own)
    bare.address_file.write_text('{"http": "http://x", "peers": "ws://x"}')  # an earlier release's
    assert addresses.load(bare) == Addresses("http://x", "ws://x")


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        addresses.store(CoordinatorSettings(data_dir=tmp_path / "file"), Addresses("http://x", "ws://x"))
