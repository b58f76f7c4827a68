"""The part of `wanspec doctor` that leaves this machine: is the coordinator there, is it the right one, does it know us
still, what time is it there, and will anybody accept the certificates that are shown here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanspec_p2p.cli.findings import Finding, guarded
from wanspec_p2p.cli.output import short
from wanspec_p2p.cli.settings import Submitter, submitter
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Role

if TYPE_CHECKING:
    from wanspec_p2p.links.membership import Membership
    from wanspec_p2p.links.peer import PeerLink
    from wanspec_p2p.security.identity import Identity

__all__ = ["certificates", "named_coordinator", "remembered_coordinators"]

CLOCK_LEEWAY = 30.0
"""Seconds two clocks may differ before a fresh lease looks expired or not yet issued."""
CLOCK_SECONDS = 10.0
"""How long a coordinator may be silent that is asked for its clock."""
ROLES = Role.NODE, Role.TARGET
SOON = 30 * 86_400.0
"""Seconds before its end from which a certificate is worth a word."""


def named_coordinator(url: str, api_key: str | None, fingerprint: str | None) -> Iterator[Finding]:
    """The coordinator a submitter was told of; what flags and variables do not say is in `[submitter]`."""
    try:
        told = submitter(url, api_key, fingerprint)
    except ConfigError as error:
        yield Finding("coordinator", False, str(error))
        return
    yield guarded("coordinator", lambda: _serves(told))
    yield guarded("coordinator's clock", lambda: _clock(told.url, told.fingerprint))


def _serves(told: Submitter) -> Finding:
    with told.client() as client:
        models = ", ".join(model.name for model in client.models())
    if not models:
        return Finding("coordinator", True, f"{told.url} answers, and serves no model yet: a target has to join it")
    return Finding("coordinator", True, f"{told.url} serves {models}")


def _clock(url: str, fingerprint: str | None, check: str = "coordinator's clock") -> Finding:
    from wanspec_p2p.client import Client

    asked = time.time()
    with Client(url, fingerprint=fingerprint, timeout=CLOCK_SECONDS) as client:
        theirs = client.wall()
    if theirs is None:
        return Finding(check, True, "it does not say what time it has")
    # Theirs is cut to whole seconds, and was taken some time between our question and now.
    ahead = asked - theirs - 1.0
    behind = theirs - time.time()
    if max(ahead, behind) > CLOCK_LEEWAY:
        off = f"{ahead:.0f} s ahead" if ahead > 0 else f"{behind:.0f} s behind"
        return Finding(check, False, f"our clocks differ by much: this one is {off}; set it (NTP), leases depend on it")
    return Finding(check, True, f"within {CLOCK_LEEWAY:g} s of this one")


def remembered_coordinators(homes: Mapping[Role, Path]) -> Iterator[Finding]:
    """Those that the node and the target have joined whose data directories these are."""
    for role in ROLES:
        file, check = homes[role] / "coordinator.json", f"way of the {role}"
        try:
            joined = file.exists()
        except OSError as error:  # somebody else's directory, say
            yield Finding(check, False, f"{file} cannot be read: {error.strerror}")
            continue
        if joined:
            way = guarded(check, partial(_way, check, role, file))
            yield way
            if way.ok:
                enrolment = f"enrolment of the {role}"
                yield guarded(enrolment, partial(_enrolment, enrolment, role, file))
            yield guarded(f"{check}, clock", partial(_way_clock, check, file))


def _way(check: str, role: Role, file: Path) -> Finding:
    return asyncio.run(_knock(check, role, _load(file)))


def _enrolment(check: str, role: Role, file: Path) -> Finding:
    from wanspec_p2p.cli.doctor_enrolment import check_enrolment

    dial = partial(_dial, _load(file), role)
    return asyncio.run(check_enrolment(check, role, file.with_name("identity.pem"), dial))


def _way_clock(check: str, file: Path) -> Finding:
    home = _load(file)
    url = "http" + home.url.removeprefix("ws")
    return _clock(url, home.certificate, f"{check}, clock")


def _load(file: Path) -> Membership:
    from wanspec_p2p.links import membership

    home = membership.load(file)
    if home is None:
        raise ConfigError(f"{file} has just gone: join again")
    return home


async def _knock(check: str, role: Role, home: Membership) -> Finding:
    """All of a link but the registration, as somebody nobody knows: address, TLS, certificate and key."""
    from wanspec_p2p.security.identity import Identity

    link = await _dial(home, role, Identity.generate())
    await link.close()
    changed = "" if link.peer == home.peer_id else f", whose key has changed to {short(link.peer)} since"
    secured = "plain, on this machine"
    if link.certificate is not None:
        of = "" if link.certificate == home.certificate else "successor of the "
        secured = f"TLS with the {of}pinned certificate"
    return Finding(check, True, f"{home.url} is the coordinator that was joined{changed} ({secured})")


async def _dial(home: Membership, role: Role, identity: Identity) -> PeerLink[Any]:
    """As a service does that has one address of its coordinator, and remembers nothing of it."""
    from wanspec_p2p.clock import SystemClock
    from wanspec_p2p.links import websocket
    from wanspec_p2p.links.peer import connect
    from wanspec_p2p.protocol.codec import AT_NODE_FROM_COORDINATOR, AT_TARGET_FROM_COORDINATOR
    from wanspec_p2p.protocol.common_messages import ENROLMENT, SUCCESSION

    codec: Any = AT_NODE_FROM_COORDINATOR if role is Role.NODE else AT_TARGET_FROM_COORDINATOR
    transport = await websocket.dial(f"{home.url.rstrip('/')}/wanspec/{role}", certificate=home.certificate)
    return await connect(
        transport,
        codec,
        identity=identity,
        role=role,
        expect=home.peer_id,
        clock=SystemClock(),
        features=(SUCCESSION, ENROLMENT),
        certificate=transport.certificate,
    )


def certificates(now: float, data: Path, *elsewhere: Path) -> Iterator[Finding]:
    """Those that services made here. Peers pin them and never look at the date; HTTP clients do.

    Args:
        data: holds data directories.
        elsewhere: other data directories.
    """
    names = ("tls-certificate.pem", "tls/tls-certificate.pem")
    ours = (pem for name in names for pem in data.glob(f"*/{name}"))
    for pem in sorted([*ours, *(pem for home in elsewhere for name in names for pem in home.glob(name))]):
        yield guarded("certificate", partial(check_certificate, pem, now))


def check_certificate(pem: Path, now: float) -> Finding:
    from cryptography import x509

    try:
        ends = x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc
    except ValueError:
        return Finding("certificate", False, f"{pem} is damaged: restore it from a backup, or move it and its key away")
    day = ends.strftime("%Y-%m-%d")
    if ends.timestamp() < now + SOON:
        remedy = "move it and its key away and start again; leases bring the new one to nodes"
        if pem.parent.name == "tls":  # a coordinator's
            remedy = "stop the coordinator and run `wanspec coordinator rotate-cert`; peers follow"
        return Finding("certificate", False, f"{pem} ends on {day}: {remedy}")
    return Finding("certificate", True, f"{pem} is good until {day}")
