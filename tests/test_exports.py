"""What the packages offer by name is decided, not accidental: a change here is a change for others."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "wanspec_p2p.client": {
        "Answer", "AnswerStream", "AsyncAnswerStream", "AsyncClient", "Client", "Model", "Piece", "Speculation",
        "Usage",
    },
    "wanspec_p2p.config": {
        "CONFIG_FILE", "Paths", "Sourced", "check_length", "check_range", "load_settings", "load_sourced",
        "home_directory", "read_section",
    },
    "wanspec_p2p.clock": {"Clock", "ManualClock", "SystemClock"},
    "wanspec_p2p.errors": {
        "AddressInUse", "CloseCode", "ConfigError", "ContextTooLong", "DigestMismatch", "EngineError", "ExitCode",
        "InvalidRequest", "JoinTokenError", "LinkClosed", "LocalProtocolError", "ModelError", "NoTarget",
        "NotPermitted", "Overloaded", "PeerRefused", "ProtocolError", "RemoteProtocolError", "RequestError",
        "RequestTimeout", "TargetLost", "Unauthenticated", "UnknownModel", "Unreachable",
        "UnsupportedParameter", "UsageError", "WanspecError", "request_error",
    },
    "wanspec_p2p.types": {
        "Device", "Dtype", "ExactnessClass", "FinishReason", "GREEDY_BELOW", "PeerId", "Privacy", "RequestId", "Role",
        "Sampling", "Segment", "SessionId", "TokenId", "TokenOrigin",
    },
}  # fmt: skip


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names_are_pinned(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_name_exists(module: str) -> None:
    imported = importlib.import_module(module)
    assert all(hasattr(imported, name) for name in imported.__all__)
