from __future__ import annotations

import itertools
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.messages import of
from wanspec_p2p.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.common_messages import (
    SUCCESSION,
    Challenge,
    CommonMessage,
    ControlMessage,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Proof,
    Welcome,
)
from wanspec_p2p.protocol.handshake import (
    TRANSITIONS,
    Begin,
    Complete,
    Dialler,
    Event,
    Handshake,
    Listener,
    Send,
    State,
)
from wanspec_p2p.protocol.node_to_coordinator import Drain
from wanspec_p2p.protocol.node_to_target import Attach
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.succession import hand_on
from wanspec_p2p.types import Role

NODE, TARGET, STRANGER = (Identity.generate() for _ in range(3))
BINDING = b"hash of the target's certificate"
Change = Callable[[ControlMessage], ControlMessage]


def _dialler(**changes: Any) -> Dialler:
    arguments: dict[str, Any] = {
        "identity": NODE,
        "role": Role.NODE,
        "expect": TARGET.peer_id,
        "nonce": b"n" * 32,
        "channel_binding": BINDING,
        "features": ("trees", "hedging", "zstd"),
        "software": "wanspec-p2p 0.1.0",
    }
    return Dialler(**(arguments | changes))


def _listener(**changes: Any) -> Listener:
    arguments: dict[str, Any] = {
        "identity": TARGET,
        "role": Role.TARGET,
        "roles": frozenset({Role.NODE}),
        "nonce": b"t" * 32,
        "channel_binding": BINDING,
        "features": ("zstd", "trees", "later"),
    }
    return Listener(**(arguments | changes))


def _run(
    dialler: Handshake, listener: Handshake, change: Change = lambda message: message
) -> tuple[Complete | None, Complete | None, list[ControlMessage]]:
    """Play both sides against each other; `change` is whoever holds the wire. Returns what each side concluded."""
    done: dict[Handshake, Complete] = {}
    frames: list[ControlMessage] = []
    pending = [(dialler, instruction) for instruction in dialler.handle(Begin())]
    while pending:
        side, instruction = pending.pop(0)
        if isinstance(instruction, Complete):
            done[side] = instruction
            continue
        frames.append(change(instruction.message))
        other = listener if side is dialler else dialler
        pending += [(other, following) for following in other.handle(frames[-1])]
    return done.get(dialler), done.get(listener), frames


def _refused(code: CloseCode = CloseCode.HANDSHAKE_FAILED, match: str = ".") -> Any:
    return pytest.raises(RemoteProtocolError, match=match, check=lambda error: error.code is code)


# The good case ------------------------------------------------------------------------------------------------------


def test_both_sides_learn_who_the_other_is() -> None:
    dialler, listener = _dialler(), _listener()
    at_dialler, at_listener, frames = _run(dialler, listener)
    assert [type(frame) for frame in frames] == [Hello, Challenge, Proof, Welcome]
    features = ("trees", "zstd")
    assert at_dialler == Complete(TARGET.peer_id, TARGET.public_key, Role.TARGET, features, "")
    assert at_listener == Complete(NODE.peer_id, NODE.public_key, Role.NODE, features, "wanspec-p2p 0.1.0")
    assert dialler.state is listener.state is State.COMPLETE


def test_no_features_and_no_tls() -> None:
    at_dialler, at_listener, _ = _run(
        _dialler(features=(), software="", channel_binding=b""), _listener(channel_binding=b"")
    )
    assert at_dialler is not None and at_dialler.features == ()
    assert at_listener is not None and at_listener.software == ""


def test_the_frames_travel_as_json_on_every_kind_of_link() -> None:
    def over_the_wire(message: ControlMessage) -> ControlMessage:
        frame = AT_NODE_FROM_TARGET.encode(message)
        assert isinstance(frame, str)
        return typing.cast(ControlMessage, AT_TARGET_FROM_NODE.decode(frame))

    assert all(_run(_dialler(), _listener(), over_the_wire)[:2])


# The table ----------------------------------------------------------------------------------------------------------

EVENTS = [
    Begin(),
    Hello(version=1, role=Role.NODE, key=bytes(32), nonce=bytes(32)),
    Challenge(1, Role.TARGET, bytes(32), bytes(32), (), bytes(64)),
    Proof(bytes(64)),
    Welcome(),
    Ping(1, 0.0),
    Pong(1, 0.0),
    Goodbye("bye"),
    Drain(),
    Attach("lease"),
]


def _reach(state: State) -> Handshake:
    """A handshake that got into this state by itself."""
    dialler, listener = _dialler(), _listener()
    match state:
        case State.FAILED:
            with _refused(CloseCode.PROTOCOL_ERROR):
                listener.handle(Welcome())
            return listener
        case State.COMPLETE:
            _run(dialler, listener)
            return dialler
        case State.LISTENER_AWAITS_PROOF:
            listener.handle(_sent(dialler.handle(Begin())))
            return listener
        case State.DIALLER_AWAITS_CHALLENGE | State.DIALLER_AWAITS_WELCOME:
            hello = _sent(dialler.handle(Begin()))
            if state is State.DIALLER_AWAITS_WELCOME:
                dialler.handle(_sent(listener.handle(hello)))
            return dialler
    return dialler if state is State.DIALLER_IDLE else listener


def _sent(instructions: list[Any]) -> ControlMessage:
    assert isinstance(instructions[0], Send)
    return instructions[0].message


def test_every_common_message_is_tried() -> None:
    assert set(typing.get_args(CommonMessage)) <= {type(event) for event in EVENTS}


@pytest.mark.parametrize("state", State)
def test_every_state_is_in_the_table_and_can_be_reached(state: State) -> None:
    assert state in TRANSITIONS
    assert _reach(state).state is state


@pytest.mark.parametrize(
    ("state", "event"),
    [(state, event) for state, event in itertools.product(State, EVENTS) if type(event) not in TRANSITIONS[state]],
    ids=lambda value: value.name if isinstance(value, State) else type(value).__name__,
)
def test_whatever_is_not_in_the_table_is_the_fault_of_who_caused_it(state: State, event: Event) -> None:
    machine = _reach(state)
    if isinstance(event, Begin):
        with pytest.raises(LocalProtocolError, match=state.name):
            machine.handle(Begin())
        assert machine.state is state
    else:
        with _refused(CloseCode.PROTOCOL_ERROR, "out of turn in the handshake"):
            machine.handle(event)
        assert machine.state is State.FAILED


def test_a_message_that_was_taken_cannot_be_played_again() -> None:
    dialler, listener = _dialler(), _listener()
    _, _, frames = _run(dialler, listener)
    for frame in frames:
        for machine in (dialler, listener):
            with _refused(CloseCode.PROTOCOL_ERROR):
                machine.handle(frame)


# Attacks ------------------------------------------------------------------------------------------------------------


def _field_changes(kind: type[ControlMessage]) -> list[tuple[type[ControlMessage], str]]:
    return [(kind, field.name) for field in msgspec.structs.fields(kind)]


FIELDS = [pair for kind in (Hello, Challenge, Proof, Welcome) for pair in _field_changes(kind)]


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
@settings(max_examples=25)
@given(data=st.data())
def test_a_change_of_any_field_of_any_frame_is_refused(
    kind: type[ControlMessage], field: str, data: st.DataObject
) -> None:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    values = of(next(one.type for one in info.fields if one.name == field))

    def change(message: ControlMessage) -> ControlMessage:
        if not isinstance(message, kind):
            return message
        return msgspec.structs.replace(
            message, **{field: data.draw(values.filter(lambda value: value != getattr(message, field)))}
        )

    dialler, listener = _dialler(), _listener(roles=frozenset(Role))
    with pytest.raises(RemoteProtocolError):
        _run(dialler, listener, change)
    assert State.FAILED in (dialler.state, listener.state)


@settings(max_examples=150)
@given(
    which=st.sampled_from([Hello, Challenge, Proof, Welcome]), position=st.integers(0, 2000), byte=st.integers(32, 126)
)
def test_a_changed_character_on_the_wire_is_refused_or_means_the_same(which: type, position: int, byte: int) -> None:
    def change(message: ControlMessage) -> ControlMessage:
        if not isinstance(message, which):
            return message
        text = bytearray(typing.cast(str, AT_TARGET_FROM_NODE.encode(message)).encode())
        text[position % len(text)] = byte
        altered = typing.cast(ControlMessage, AT_TARGET_FROM_NODE.decode(text.decode()))
        changed.append(altered != message)
        return altered

    changed: list[bool] = []
    try:
        _run(_dialler(), _listener(roles=frozenset(Role)), change)
    except RemoteProtocolError:
        return
    assert changed == [False]


def test_the_nonces_make_old_frames_worthless() -> None:
    _, _, (_, challenge, proof, _) = _run(_dialler(), _listener())
    listener = _listener(nonce=b"u" * 32)
    listener.handle(_sent(_dialler().handle(Begin())))
    with _refused(match="does not fit this connection"):
        listener.handle(proof)
    dialler = _dialler(nonce=b"m" * 32)
    dialler.handle(Begin())
    with _refused(match="does not fit this connection"):
        dialler.handle(challenge)


def test_the_signature_of_one_side_is_none_of_the_other() -> None:
    def reflect(message: ControlMessage) -> ControlMessage:
        if isinstance(message, Challenge):
            seen.append(message.signature)
        return Proof(seen[0]) if isinstance(message, Proof) else message

    seen: list[bytes] = []
    with _refused(match="does not fit this connection"):
        _run(_dialler(identity=NODE), _listener(), reflect)


def test_a_peer_that_shows_our_own_key_is_refused() -> None:
    with _refused(match="presents our own key"):
        _run(_dialler(identity=TARGET), _listener())
    dialler = _dialler(expect=NODE.peer_id)
    hello = _sent(dialler.handle(Begin()))
    assert isinstance(hello, Hello)
    with _refused(match="presents our own key"):
        dialler.handle(Challenge(1, Role.TARGET, hello.key, b"t" * 32, hello.features, bytes(64)))


def test_a_repeated_nonce_is_refused() -> None:
    with _refused(match="repeats our nonce"):
        _run(_dialler(nonce=b"t" * 32), _listener())


def test_somebody_in_between_fits_no_connection() -> None:
    """Both TLS ends see his certificate, or their own: never the same as the other end."""
    dialler = _dialler(channel_binding=b"hash of the attacker's certificate")
    with _refused(match="a proxy in between"):
        _run(dialler, _listener())
    assert dialler.state is State.FAILED  # it is the dialler who notices, before its own proof is sent


def test_the_dialler_says_nothing_of_value_to_a_stranger() -> None:
    dialler = _dialler()
    with _refused(match="another peer than expected answers"):
        _run(dialler, _listener(identity=STRANGER))
    assert dialler.state is State.FAILED


def test_a_listener_without_the_key_is_found_out() -> None:
    def impersonate(message: ControlMessage) -> ControlMessage:
        return msgspec.structs.replace(message, key=TARGET.public_key) if isinstance(message, Challenge) else message

    with _refused(match="does not fit this connection"):
        _run(_dialler(), _listener(identity=STRANGER), impersonate)


def test_a_dialler_without_the_key_is_found_out() -> None:
    hello = msgspec.structs.replace(_sent(_dialler(identity=STRANGER).handle(Begin())), key=NODE.public_key)
    listener = _listener()
    listener.handle(hello)
    with _refused(match="lacks the key"):
        listener.handle(Proof(STRANGER.sign(b"anything")))


@pytest.mark.parametrize("role", [Role.TARGET, Role.COORDINATOR])
def test_a_role_that_is_not_admitted(role: Role) -> None:
    with _refused(match=f"a {role} is not admitted here"):
        _run(_dialler(role=role), _listener())


@pytest.mark.parametrize("kind", [Hello, Challenge])
def test_another_version_is_named(kind: type) -> None:
    def newer(message: ControlMessage) -> ControlMessage:
        return msgspec.structs.replace(message, version=7) if isinstance(message, kind) else message

    with _refused(CloseCode.VERSION_MISMATCH, "this side speaks protocol version 1, the peer version 7"):
        _run(_dialler(), _listener(), newer)


# A listener whose key has changed ------------------------------------------------------------------------------------

BEFORE = Identity.generate()
CHAIN = (hand_on(BEFORE, TARGET, issued=1_800_000_000),)
ASKED = (SUCCESSION, "trees")


def test_a_dialler_that_knows_the_old_key_follows_it_to_the_new_one() -> None:
    at_dialler, at_listener, frames = _run(
        _dialler(expect=BEFORE.peer_id, features=ASKED), _listener(features=ASKED, succession=CHAIN)
    )
    assert at_dialler == Complete(TARGET.peer_id, TARGET.public_key, Role.TARGET, ASKED, "")
    assert at_listener is not None and at_listener.peer == NODE.peer_id
    assert isinstance(frames[1], Challenge) and frames[1].succession == CHAIN


def test_a_dialler_that_knows_the_new_key_needs_no_statement_and_is_not_harmed_by_one() -> None:
    stale = (hand_on(BEFORE, STRANGER, issued=1),)
    for chain in ((), CHAIN, stale):
        at_dialler, _, _ = _run(_dialler(features=ASKED), _listener(features=ASKED, succession=chain))
        assert at_dialler is not None and at_dialler.peer == TARGET.peer_id


@pytest.mark.parametrize("at_dialler", [(), ("trees",)])
def test_who_does_not_name_the_feature_is_sent_a_challenge_as_ever(at_dialler: tuple[str, ...]) -> None:
    frames: list[ControlMessage] = []

    def keep(message: ControlMessage) -> ControlMessage:
        frames.append(message)
        return message

    _run(_dialler(features=at_dialler), _listener(features=ASKED, succession=CHAIN), keep)
    assert b"succession" not in msgspec.json.encode(frames[1]).replace(b'"succession","trees"', b"")
    with _refused(match="another peer than expected"):
        _run(_dialler(expect=BEFORE.peer_id, features=at_dialler), _listener(features=ASKED, succession=CHAIN))


def test_a_statement_nobody_asked_for_is_refused() -> None:
    def add(message: ControlMessage) -> ControlMessage:
        return msgspec.structs.replace(message, succession=CHAIN) if isinstance(message, Challenge) else message

    with _refused(match="was not asked for"):
        _run(_dialler(features=()), _listener(features=()), add)


def test_who_has_the_statement_and_not_the_new_key_is_found_out() -> None:
    """The statement is no secret: an impostor can replay it, and lacks the key it names."""
    with _refused(match="another peer than expected"):
        _run(
            _dialler(expect=BEFORE.peer_id, features=ASKED),
            _listener(identity=STRANGER, features=ASKED, succession=CHAIN),
        )
    with _refused(match="does not begin"):  # a chain of the impostor's own
        _run(
            _dialler(expect=BEFORE.peer_id, features=ASKED),
            _listener(identity=STRANGER, features=ASKED, succession=(hand_on(TARGET, STRANGER, issued=1),)),
        )
    forged = msgspec.structs.replace(CHAIN[0], new=STRANGER.public_key)
    with _refused(match="the signature is not valid"):
        _run(
            _dialler(expect=BEFORE.peer_id, features=ASKED),
            _listener(identity=STRANGER, features=ASKED, succession=(forged,)),
        )


def test_the_statements_are_in_the_transcript() -> None:
    longer = (hand_on(STRANGER, BEFORE, issued=1), *CHAIN)

    def swap(message: ControlMessage) -> ControlMessage:
        return msgspec.structs.replace(message, succession=longer) if isinstance(message, Challenge) else message

    with _refused(match="signature does not fit"):
        _run(_dialler(expect=BEFORE.peer_id, features=ASKED), _listener(features=ASKED, succession=CHAIN), swap)
