"""Every exception of the project, by who has to act.

WanspecError
├── UsageError                  the person at the keyboard: one line that says what to do          exit 2
│   ├── ConfigError             a value in a file, a variable or a flag                            exit 2
│   ├── AddressInUse            the port is taken                                                  exit 2
│   ├── JoinTokenError          a join token that is malformed, expired or for another role        exit 3
│   ├── ModelError              a model that is unknown, damaged or unsupported                    exit 5
│   │   └── DigestMismatch      a file whose content is not what the catalog pins                  exit 5
│   └── Unreachable             nobody answers at an address                                       exit 4
├── ProtocolError
│   ├── LocalProtocolError      we broke our own rules: a bug here
│   └── RemoteProtocolError     the peer broke them: a close code and a reason its operator can act on
├── PeerRefused                 the peer closed the link with a reason                             exit 3
├── LinkClosed                  the link is gone; no blame
├── EngineError                 a model failed while running
└── RequestError                a submitter's request cannot be answered; carries the HTTP status and the OpenAI code
    ├── InvalidRequest          400    ├── Unauthenticated  401    ├── NotPermitted   403
    │   └── UnsupportedParameter 400
    ├── UnknownModel            404    ├── ContextTooLong   400    ├── RequestTimeout 408
    ├── Overloaded              503    ├── NoTarget         503    └── TargetLost     502
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

__all__ = [
    "AddressInUse",
    "CloseCode",
    "ConfigError",
    "ContextTooLong",
    "DigestMismatch",
    "EngineError",
    "ExitCode",
    "InvalidRequest",
    "JoinTokenError",
    "LinkClosed",
    "LocalProtocolError",
    "ModelError",
    "NoTarget",
    "NotPermitted",
    "Overloaded",
    "PeerRefused",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "RequestTimeout",
    "TargetLost",
    "Unauthenticated",
    "UnknownModel",
    "Unreachable",
    "UnsupportedParameter",
    "UsageError",
    "WanspecError",
    "request_error",
]


class ExitCode(enum.IntEnum):
    """What `wanspec` exits with; documented in docs/reference/exit-codes.md."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    MODEL = 5
    NOT_IDENTICAL = 6
    INTERRUPTED = 130


class CloseCode(enum.IntEnum):
    """WebSocket close codes. 1000-1015 are RFC 6455 §7.4.1; 4000-4999 are ours (RFC 6455 §7.4.2)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    VERSION_MISMATCH = 4000
    HANDSHAKE_FAILED = 4001
    NOT_ENROLLED = 4002
    JOIN_REFUSED = 4003
    LEASE_REFUSED = 4004
    TOKENIZER_MISMATCH = 4005
    REPLACED = 4006
    IDLE = 4007


class WanspecError(Exception):
    """Base of everything the project raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE


class UsageError(WanspecError):
    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """The message names the key path and where the value came from."""


class AddressInUse(UsageError):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use: stop what listens there or choose another with --port")
        self.host, self.port = host, port

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.host, self.port)


class JoinTokenError(UsageError):
    exit_code = ExitCode.REFUSED


class ModelError(UsageError):
    exit_code = ExitCode.MODEL


class DigestMismatch(ModelError):
    def __init__(self, name: str, expected: str, found: str) -> None:
        super().__init__(
            f"{name} has sha256 {found}, the catalog pins {expected}: the file is damaged or "
            "not the one that was published; delete it and pull again"
        )
        self.name, self.expected, self.found = name, expected, found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.expected, self.found)


class Unreachable(UsageError):
    exit_code = ExitCode.UNREACHABLE


class ProtocolError(WanspecError):
    pass


class LocalProtocolError(ProtocolError):
    """An event or a message that our own side must never produce in this state."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what it must not.

    Args:
        reason: one line its operator can act on; at most 123 bytes travel in the close frame (RFC 6455 §5.5).
        code: the close code the link ends with.
    """

    def __init__(self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class PeerRefused(WanspecError):
    exit_code = ExitCode.REFUSED

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"the peer closed the link with code {code} and no reason")
        self.code, self.reason = code, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.reason)


class LinkClosed(WanspecError):
    pass


class EngineError(WanspecError):
    pass


class RequestError(WanspecError):
    """A request that cannot be answered, in the words of the OpenAI error object."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.retry_after = message, param, retry_after


class InvalidRequest(RequestError):
    status, type, code = 400, "invalid_request_error", "invalid_value"
    exit_code = ExitCode.USAGE


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextTooLong(RequestError):
    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    exit_code = ExitCode.USAGE


class Unauthenticated(RequestError):
    status, type, code = 401, "authentication_error", "invalid_api_key"
    exit_code = ExitCode.REFUSED


class NotPermitted(RequestError):
    status, type, code = 403, "permission_error", "not_permitted"
    exit_code = ExitCode.REFUSED


class UnknownModel(RequestError):
    status, type, code = 404, "invalid_request_error", "model_not_found"
    exit_code = ExitCode.MODEL


class RequestTimeout(RequestError):
    status, type, code = 408, "server_error", "timeout"


class Overloaded(RequestError):
    status, type, code = 503, "server_error", "overloaded"


class NoTarget(RequestError):
    status, type, code = 503, "server_error", "no_target"


class TargetLost(RequestError):
    status, type, code = 502, "server_error", "target_lost"


_BY_CODE: dict[str, type[RequestError]] = {
    kind.code: kind
    for kind in (
        RequestError,
        InvalidRequest,
        UnsupportedParameter,
        ContextTooLong,
        Unauthenticated,
        NotPermitted,
        UnknownModel,
        RequestTimeout,
        Overloaded,
        NoTarget,
        TargetLost,
    )
}


def request_error(
    code: str, message: str, *, param: str | None = None, retry_after: float | None = None
) -> RequestError:
    """The exception for an OpenAI error code; an unknown code becomes a plain `RequestError`."""
    return _BY_CODE.get(code, RequestError)(message, param=param, retry_after=retry_after)
