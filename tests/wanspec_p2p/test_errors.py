from __future__ import annotations

import inspect
import pickle

import pytest

from wanspec_p2p import errors
from wanspec_p2p.errors import (
    AddressInUse,
    CloseCode,
    DigestMismatch,
    ExitCode,
    Overloaded,
    PeerRefused,
    RemoteProtocolError,
    RequestError,
    WanspecError,
    request_error,
)

EXCEPTIONS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)]
REQUEST_ERRORS = [kind for kind in EXCEPTIONS if issubclass(kind, RequestError)]


def test_everything_is_exported_and_in_the_tree() -> None:
    assert {kind.__name__ for kind in EXCEPTIONS} <= set(errors.__all__)
    for kind in EXCEPTIONS:
        assert issubclass(kind, WanspecError)
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "error",
    [
        AddressInUse("localhost", 80),
        DigestMismatch("a file", "ab", "cd"),
        PeerRefused(4003, "revoked"),
        Overloaded("full", retry_after=1.0),
        RemoteProtocolError("no", CloseCode.POLICY_VIOLATION),
    ],
    ids=lambda error: type(error).__name__,
)
def test_they_travel_between_processes(error: WanspecError) -> None:
    same = pickle.loads(pickle.dumps(error))  # ours
    assert (type(same), str(same), vars(same)) == (type(error), str(error), vars(error))


def test_the_tree_tells_the_exit_codes() -> None:
    for line in (errors.__doc__ or "").splitlines():
        words = line.strip("│ ├└─").split()
        if len(words) > 2 and words[-2] == "exit":
            assert getattr(errors, words[0]).exit_code == int(words[-1]), line


def test_the_tree_tells_the_http_statuses() -> None:
    words = (errors.__doc__ or "").replace("│", " ").split()
    for kind in REQUEST_ERRORS:
        if kind is not RequestError:
            assert words[words.index(kind.__name__) + 1] == str(kind.status)


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_a_code_leads_back_to_its_exception(kind: type[RequestError]) -> None:
    error = request_error(kind.code, "words", param="stop", retry_after=1.5)
    assert type(error) is kind
    assert (str(error), error.message, error.param, error.retry_after) == ("words", "words", "stop", 1.5)


def test_an_unknown_code_is_still_an_error() -> None:
    assert type(request_error("new_in_a_later_release", "words")) is RequestError
    assert len({kind.code for kind in REQUEST_ERRORS}) == len(REQUEST_ERRORS)
    assert Overloaded("busy", retry_after=2.0).retry_after == 2.0


def test_close_codes_are_registered_or_private() -> None:
    assert all(1000 <= code <= 1015 or 4000 <= code <= 4999 for code in CloseCode)


def test_what_the_lines_say() -> None:
    assert str(AddressInUse("127.0.0.1", 7001)) == (
        "port 7001 on 127.0.0.1 is in use: stop what listens there or choose another with --port"
    )
    assert "abc" in str(DigestMismatch("model", "abc", "def")) and "def" in str(DigestMismatch("model", "abc", "def"))
    assert str(PeerRefused(4004, "")) == "the peer closed the link with code 4004 and no reason"
    error = RemoteProtocolError("Hello is out of turn")
    assert (error.code, error.reason, error.exit_code) == (
        CloseCode.PROTOCOL_ERROR,
        "Hello is out of turn",
        ExitCode.FAILURE,
    )
