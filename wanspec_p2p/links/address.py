"""What an address has to be before anybody looks at where it leads: a URL with a host and a port that sockets take."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["split"]


def split(url: str) -> tuple[SplitResult, str]:
    """The parts of a URL and the host in it, which is empty where there is none.

    Raises:
        ValueError: it is no URL, its port is none, or its host is one that cannot be looked up, such as `a..b`. The
            library would say so only when it is dialled, and by a UnicodeError.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    parts.port  # noqa: B018  # raises ValueError for a port that is none
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"{host!r} is not the name of a host") from None
    return parts, host
