"""What both clients decide alike: which address, which certificate, and what a failed connection is called."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict, TypeVar
from urllib.parse import urlsplit

import httpx2

from wanspec_p2p import __version__
from wanspec_p2p.client.answers import Model
from wanspec_p2p.client.pinning import CertificateMismatch, pinned_context
from wanspec_p2p.errors import (
    CloseCode,
    ConfigError,
    LinkClosed,
    NoTarget,
    RemoteProtocolError,
    RequestTimeout,
    UnknownModel,
    Unreachable,
)
from wanspec_p2p.links.address import split

__all__ = ["DEFAULT_TIMEOUT", "Endpoint", "only_model", "opened", "translated"]

DEFAULT_TIMEOUT = 330.0
"""Seconds without a byte from the coordinator after which a request has failed. There may be a queue in front of a
target, and a long prompt to read: the coordinator itself gives an answer up after five minutes without a token."""
CONNECT_TIMEOUT = 10.0
API_PATH = "/v1"
"""Under it is the OpenAI API: other clients want it in their base URL, so it may be in ours."""
KEY = re.compile("[!-~]*")
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""What OpenSSL's releases call an answer that is no TLS at all, such as plain HTTP's."""


Http = TypeVar("Http")


class HttpOptions(TypedDict):
    base_url: str
    headers: Mapping[str, str]
    verify: ssl.SSLContext | bool
    timeout: httpx2.Timeout
    trust_env: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A coordinator's address and how to trust it.

    Args:
        url: with or without the path of the OpenAI API.
        api_key: blanks around it do not count, as at the end of a file; if it is empty none is sent.

    Raises:
        ConfigError: the address is not http(s), or is plain http to another machine, or pins what has no certificate;
            the key cannot be one.
    """

    url: str
    api_key: str | None
    fingerprint: str | None

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self._key):
            raise ConfigError("the API key holds a blank, a line break or a character that is not ASCII")
        with _as_address(self.url):
            parts, host = split(self.url)
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"{self.url!r} is not a coordinator's address; it looks like https://host:port")
        if parts.scheme == "http" and not self.loopback:
            raise ConfigError(f"{self.url} is plain http to another machine: your prompt could be read; use https://")
        if parts.scheme == "http" and self.fingerprint is not None:
            raise ConfigError("a certificate fingerprint needs an https:// address")

    @property
    def loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @property
    def base(self) -> str:
        """What paths of the coordinator's come after."""
        return self.url.rstrip("/").removesuffix(API_PATH)

    @property
    def headers(self) -> Mapping[str, str]:
        headers = {"User-Agent": f"wanspec-p2p/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    @property
    def _key(self) -> str:
        return (self.api_key or "").strip()

    @property
    def verify(self) -> ssl.SSLContext | bool:
        if self.fingerprint is not None:
            return pinned_context(self.fingerprint)
        # Where proxies do not count, the library does not look for SSL_CERT_FILE either, and that one does.
        return httpx2.create_ssl_context() if self.loopback and self.url.startswith("https:") else True

    @property
    def trust_env(self) -> bool:
        """Whether proxy variables count; a proxy cannot reach this machine's own loopback."""
        return not self.loopback

    def http_options(self, timeout: float) -> HttpOptions:
        """What either kind of HTTP client is made with."""
        return {
            "base_url": self.base,
            "headers": self.headers,
            "verify": self.verify,
            "timeout": httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout)),
            "trust_env": self.trust_env,
        }


def opened(make: Callable[..., Http], endpoint: Endpoint, timeout: float, transport: object) -> Http:
    """Either kind of HTTP client.

    Raises:
        ConfigError: it cannot be made for this address, or with the proxy that the environment names.
    """
    with _as_address(endpoint.url):
        try:
            return make(**endpoint.http_options(timeout), transport=transport)
        except OSError as error:  # of ssl too
            named = "SSL_CERT_FILE or SSL_CERT_DIR"
            raise ConfigError(f"the certificates that {named} names cannot be read: {error}") from error


@contextlib.contextmanager
def _as_address(url: str) -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        httpx2.InvalidURL,
        ImportError,
    ) as error:  # the last: a kind of proxy that needs another package
        raise ConfigError(f"{url!r} cannot be asked: {error}") from error


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Failures of the connection, in our own exceptions."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise Unreachable(f"nobody answers at {url}") from error
    except httpx2.TimeoutException as error:
        raise RequestTimeout(f"no answer from {url} in time") from error
    except httpx2.ConnectError as error:
        raise _connect_error(url, error) from error
    except (httpx2.RemoteProtocolError, httpx2.NetworkError) as error:
        raise LinkClosed(f"the connection to {url} broke off{_if_it_speaks_tls(url, error)}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"{url}: {error}") from error


def _connect_error(url: str, error: BaseException) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CertificateMismatch):
            reason = f"{url} is not the coordinator you were told of: {cause}"
            return RemoteProtocolError(reason, CloseCode.HANDSHAKE_FAILED)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{url} has a certificate that no authority vouches for: give its fingerprint if you know it"
            )
        if isinstance(cause, ssl.SSLError):
            return Unreachable(_no_tls(url, cause))
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"nobody answers at {url}: is the coordinator running?")


def _no_tls(url: str, error: ssl.SSLError) -> str:
    if error.reason in NOT_TLS:
        return f"{url} answers, but not with TLS: a coordinator on this machine alone is asked by http://"
    return f"{url} answers, but no TLS connection comes about: {error.reason or error.strerror or error}"


def _if_it_speaks_tls(url: str, error: BaseException) -> str:
    """Who is asked in plain HTTP and speaks TLS hangs up without a word; but so does one that is killed."""
    if url.startswith("http:") and "without sending a response" in str(error):
        return " without an answer: if it speaks TLS, use https://"
    return ""


def only_model(models: list[Model]) -> str:
    """The model a request without a name means.

    Raises:
        NoTarget: none is served.
        UnknownModel: several are served; one has to be named.
    """
    if not models:
        raise NoTarget("the coordinator has no target at the moment")
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise UnknownModel(f"the coordinator serves several models, name one: {names}", param="model")
    return models[0].name
