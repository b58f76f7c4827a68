"""What operators do to a network of real services: read its logs, put a proxy before it, move it, change its keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from coordinator import addresses
from coordinator.admin import create_api_key, issue_join_token
from coordinator.keys import rotate, rotate_certificate
from node.dialling import Dialler
from tests.support.certificates import self_made
from tests.support.tls_proxy import tls_proxy
from tests.support.whole_network import WholeNetwork, free_port, scripted, until
from wanspec_p2p import logs
from wanspec_p2p.client import Answer, AsyncClient
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import ConfigError, PeerRefused, RemoteProtocolError, Unauthenticated
from wanspec_p2p.links import membership
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.security.self_made import CERTIFICATE, KEY, load_or_create_certificate, replace_certificate
from wanspec_p2p.security.tls import certificate_fingerprint, listener_context
from wanspec_p2p.types import Role

PROMPT = "the marmalade xylophone of 4711"


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scripted(monkeypatch)
    structlog.configure(processors=[lambda logger, method, event: (_ for _ in ()).throw(structlog.DropEvent)])
    yield
    structlog.reset_defaults()


@contextlib.asynccontextmanager
async def asking(network: WholeNetwork, **how: str) -> AsyncIterator[AsyncClient]:
    async with asyncio.timeout(60), AsyncClient(network.url, **how) as client:
        yield client


async def ask(client: AsyncClient) -> Answer:
    return await client.generate(PROMPT, model="big", max_tokens=24, seed=3, temperature=0.0)


# Logs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
async def test_logs_of_a_run_hold_no_prompt_and_no_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """Everything is logged, debug lines too; things go right and wrong; then the lines are searched."""
    logs.configure(json=as_json, level=logging.DEBUG)
    network = WholeNetwork(tmp_path)
    spent = None
    async with network.coordinator():
        key = create_api_key(network.settings, "ada")
        spent = network.token(Role.TARGET)
        tokens = [issue_join_token(network.settings, role=Role.NODE, uses=2), JoinToken.decode(spent or "")]
        async with network.target(join=spent), network.node(join=tokens[0].encode()):
            async with asking(network, api_key=key) as client:
                await network.drafting(client)
                answer = await ask(client)
                with pytest.raises(Unauthenticated):
                    async with AsyncClient(network.url, api_key="wsk-wrong-4242") as stranger:
                        await stranger.generate(PROMPT, model="big")
            with pytest.raises(PeerRefused, match="used already"):
                async with network.target(join=spent, data_dir=tmp_path / "second target"):
                    raise AssertionError("it was let in")
    _, said = capfd.readouterr()
    lines = said.splitlines()
    assert len(lines) > 10 and "joined" in said and "a node attached" in said
    if as_json:
        assert all({"event", "level", "timestamp"} <= set(json.loads(line)) for line in lines)
    keys = private_keys(tmp_path)
    assert len(keys) >= 3 and len(answer.token_ids) == 24
    ids = [", ".join(map(str, answer.token_ids[at : at + 3])) for at in range(22)]
    secrets = [word for token in tokens for word in (token.secret, token.encode(), token.encode().split(".")[1])]
    for forbidden in (PROMPT, "xylophone", answer.text, key, "wsk-wrong-4242", *secrets, *keys, *ids):
        assert forbidden not in said, f"{forbidden!r} was logged"
        assert base64.b64encode(forbidden.encode()).decode().rstrip("=")[:-1] not in said


def private_keys(directory: Path) -> list[str]:
    """The secret line of each."""
    return [file.read_text().splitlines()[1] for file in directory.rglob("identity.pem")]


# TLS ------------------------------------------------------------------------------------------------------------------


async def test_a_run_with_a_certificate_the_coordinator_made(tmp_path: Path) -> None:
    """Flags name the certificate in `run` alone; tokens, `ca` and clients know it all the same."""
    certificate, key, fingerprint = self_made(tmp_path)
    network = WholeNetwork(tmp_path, tls_cert=certificate, tls_key=key)
    async with network.coordinator() as url:
        assert url.startswith("https://")
        bare = WholeNetwork(tmp_path).settings  # what `wanspec coordinator token` sees beside `run --tls-cert …`
        token = issue_join_token(bare, role=Role.TARGET)
        assert (token.url[:6], token.certificate) == ("wss://", fingerprint)
        pem = addresses.certificate_pem(bare, ManualClock())
        assert pem is not None and ssl.PEM_cert_to_DER_cert(pem) == ssl.PEM_cert_to_DER_cert(certificate.read_text())
        async with network.target(join=token.encode()), network.node():
            async with asking(network, fingerprint=fingerprint) as client:
                await network.drafting(client)
                assert len((await ask(client)).token_ids) == 24
        with pytest.raises(RemoteProtocolError, match="fingerprint"):
            async with asking(network, fingerprint="0" * 64) as client:
                await client.models()


async def test_a_run_behind_a_proxy_that_ends_tls(tmp_path: Path) -> None:
    certificate, key, fingerprint = self_made(tmp_path)
    port, front = free_port(), free_port()
    public = {"public_url": f"https://localhost:{front}", "port": port}
    network = WholeNetwork(tmp_path, **public, proxy_cert=certificate)
    async with tls_proxy(listener_context(certificate, key), port, front), network.coordinator() as url:
        assert url == f"https://localhost:{front}"
        token = issue_join_token(network.settings, role=Role.TARGET)
        assert (token.url, token.certificate) == (f"wss://localhost:{front}", fingerprint)
        async with network.target(join=token.encode()), network.node():
            async with asking(network, fingerprint=fingerprint) as client:
                await network.drafting(client)
                assert len((await ask(client)).token_ids) == 24


async def test_a_proxy_the_coordinator_was_not_told_of_is_found_out(tmp_path: Path) -> None:
    """Pinned or not: both ends of a link have to see one certificate (RFC 5929), and say so where they do not."""
    (tmp_path / "told").mkdir()
    told, _, _ = self_made(tmp_path / "told")
    certificate, key, fingerprint = self_made(tmp_path)
    port, front = free_port(), free_port()
    network = WholeNetwork(tmp_path, public_url=f"https://localhost:{front}", port=port, proxy_cert=told)
    async with tls_proxy(listener_context(certificate, key), port, front), network.coordinator():
        token = issue_join_token(network.settings, role=Role.NODE)
        with pytest.raises(RemoteProtocolError, match="shows a certificate with fingerprint"):
            async with network.node(join=token.encode()):
                raise AssertionError("it was let in")
        forged = JoinToken(token.url, token.coordinator, fingerprint, token.secret, Role.NODE, "default", token.expires)
        with pytest.raises(RemoteProtocolError, match="certificate that the listener was not told of"):
            async with network.node(join=forged.encode()):
                raise AssertionError("it was let in")


# Several addresses ----------------------------------------------------------------------------------------------------


async def test_a_coordinator_that_moved_is_found_at_another_of_its_addresses(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    async with WholeNetwork(tmp_path, port=first).coordinator():
        network = WholeNetwork(tmp_path, port=first)
        async with network.target(), network.node():
            pass
    moved = WholeNetwork(tmp_path, port=second)
    also = (f"ws://127.0.0.1:{free_port()}", f"ws://127.0.0.1:{second}")
    async with moved.coordinator():
        async with moved.target(coordinator_urls=also), moved.node(coordinator_urls=also):
            async with asking(moved) as client:
                await moved.drafting(client)
                assert len((await ask(client)).token_ids) == 24
    for peer in ("target", "node"):  # the next start tries this one first
        known = membership.load(tmp_path / peer / "coordinator.json")
        assert known is not None and known.url == also[1]


def key_known(peer: Path) -> bytes | None:
    known = membership.load(peer / "coordinator.json")
    return None if known is None else known.coordinator


def dialler(peer: Path) -> Dialler:
    """How a node reaches its coordinator, once; a service tries again and again."""
    known = membership.load(peer / "coordinator.json")
    assert known is not None
    return Dialler(Identity.load_or_create(peer / "identity.pem"), known, ManualClock())


# Another process ------------------------------------------------------------------------------------------------------


async def test_a_node_drafts_on_under_its_lease_when_the_coordinator_is_started_again(tmp_path: Path) -> None:
    network = WholeNetwork(tmp_path, port=free_port())
    async with contextlib.AsyncExitStack() as peers:
        async with network.coordinator():
            await peers.enter_async_context(network.target())
            await peers.enter_async_context(network.node())
            async with asking(network) as client:
                (before,) = (await network.drafting(client))["leases"]
        async with network.coordinator(), asking(network) as client:
            state = await network.drafting(client)  # both are back: the target said how many drafters it has
            while not state["leases"]:
                state = await client.state()
            assert len((await ask(client)).token_ids) == 24
            (after,) = (await client.state())["leases"]
            assert (after["jti"], after["state"]) == (before["jti"], "held")
            assert after["expires_in"] < before["expires_in"]


# Another key ----------------------------------------------------------------------------------------------------------


async def test_peers_follow_the_coordinator_to_its_new_key_while_they_run(tmp_path: Path) -> None:
    network = WholeNetwork(tmp_path, port=free_port())
    async with contextlib.AsyncExitStack() as peers:
        async with network.coordinator():
            unused = issue_join_token(network.settings, role=Role.NODE)
            await peers.enter_async_context(network.target(drafters=2))
            await peers.enter_async_context(network.node())
            async with asking(network) as client:
                await network.drafting(client)
                before = await ask(client)
        old, new = rotate(network.settings)
        async with network.coordinator():
            late = network.node(join=unused.encode(), data_dir=tmp_path / "late")  # its token names the old key
            await peers.enter_async_context(late)
            async with asking(network) as client:
                await network.drafting(client, drafters=2)  # so leases signed with the new key are taken
                assert (await ask(client)).token_ids == before.token_ids
            for peer in ("target", "node", "late"):  # who was linked when it went comes back in its own time
                await until(lambda peer=peer: key_known(tmp_path / peer) == new.public_key != old.public_key)


async def test_peers_that_were_away_follow_too_and_never_go_back(tmp_path: Path) -> None:
    network = WholeNetwork(tmp_path, port=free_port())
    async with network.coordinator():
        async with network.node():
            pass
    first = Identity.load_or_create(network.settings.identity_file)
    rotate(network.settings)
    rotate(network.settings)
    async with network.coordinator():
        async with network.node():
            pass
    first.replace(network.settings.identity_file)  # a thief with the old key, and all that can be copied
    async with network.coordinator():
        assert key_known(tmp_path / "node") != first.public_key
        with pytest.raises(RemoteProtocolError, match="another peer than expected"):
            await dialler(tmp_path / "node").coordinator()


async def test_a_coordinator_with_a_new_key_that_no_old_one_signed_is_a_stranger(tmp_path: Path) -> None:
    network = WholeNetwork(tmp_path, port=free_port())
    async with network.coordinator():
        token = issue_join_token(network.settings, role=Role.NODE)
    Identity.generate().replace(network.settings.identity_file)
    async with network.coordinator():
        with pytest.raises(RemoteProtocolError, match="another peer than expected"):
            async with network.node(join=token.encode()):
                raise AssertionError("it was let in")


# Another certificate --------------------------------------------------------------------------------------------------


def own_certificate(directory: Path, **settings: Any) -> tuple[WholeNetwork, str]:
    """A network whose coordinator shows, on loopback, the certificate it would make off it; and the fingerprint."""
    certificate, key = load_or_create_certificate(directory / "coordinator/tls", "127.0.0.1", clock=SystemClock())
    network = WholeNetwork(directory, port=free_port(), tls_cert=certificate, tls_key=key, **settings)
    return network, certificate_fingerprint(certificate)


def certificate_known(peer: Path) -> str | None:
    known = membership.load(peer / "coordinator.json")
    return None if known is None else known.certificate


async def test_everybody_follows_the_coordinator_to_its_new_certificate_while_they_run(tmp_path: Path) -> None:
    network, first = own_certificate(tmp_path)
    async with contextlib.AsyncExitStack() as peers:
        async with network.coordinator():
            unused = issue_join_token(network.settings, role=Role.NODE)
            await peers.enter_async_context(network.target(drafters=2))
            await peers.enter_async_context(network.node())
            client = await peers.enter_async_context(asking(network, fingerprint=first))
            await network.drafting(client)
            before = await ask(client)
        old, new = rotate_certificate(network.settings)
        assert old == first == unused.certificate
        async with network.coordinator():
            late = network.node(join=unused.encode(), data_dir=tmp_path / "late")  # its token names the old one
            await peers.enter_async_context(late)
            await network.drafting(client, drafters=2)
            assert (await ask(client)).token_ids == before.token_ids
            for peer in ("target", "node", "late"):  # who was linked when it went comes back in its own time
                await until(lambda peer=peer: certificate_known(tmp_path / peer) == new)


async def test_peers_that_were_away_follow_to_the_present_certificate_and_never_go_back(tmp_path: Path) -> None:
    network, first = own_certificate(tmp_path)
    async with network.coordinator():
        async with network.node():
            pass
    shutil.copytree(network.settings.certificate_dir, tmp_path / "stolen")
    rotate_certificate(network.settings)
    _, present = rotate_certificate(network.settings)
    async with network.coordinator():
        async with network.node():
            pass
    assert certificate_known(tmp_path / "node") == present != first
    old = {"tls_cert": tmp_path / "stolen" / CERTIFICATE, "tls_key": tmp_path / "stolen" / KEY}
    async with WholeNetwork(tmp_path, port=network.settings.port, **old).coordinator():
        with pytest.raises(RemoteProtocolError, match=f"shows a certificate with fingerprint {first}"):
            await dialler(tmp_path / "node").coordinator()


async def test_a_thief_of_the_old_certificates_key_is_not_taken_for_the_coordinator(tmp_path: Path) -> None:
    """He can hand it on to himself; but peers then ask for the coordinator's own key."""
    network, first = own_certificate(tmp_path)
    async with network.coordinator():
        async with network.node():
            pass
    shutil.copytree(network.settings.certificate_dir, tmp_path / "thief/coordinator/tls")
    replace_certificate(tmp_path / "thief/coordinator/tls", "127.0.0.1", clock=SystemClock())
    thief = WholeNetwork(
        tmp_path / "thief",
        port=network.settings.port,
        tls_cert=tmp_path / "thief/coordinator/tls" / CERTIFICATE,
        tls_key=tmp_path / "thief/coordinator/tls" / KEY,
    )
    async with thief.coordinator():
        with pytest.raises(RemoteProtocolError, match="another peer than expected"):
            await dialler(tmp_path / "node").coordinator()
    assert certificate_known(tmp_path / "node") == first


def test_an_address_that_could_never_be_checked_is_refused_at_once(tmp_path: Path) -> None:
    from wanspec_p2p.links.home import Home

    home = membership.Membership("ws://127.0.0.1:1", Identity.generate().public_key, None)
    with pytest.raises(ConfigError, match="joined without TLS"):
        Home(home, ("wss://coordinator.example",))
