"""nginx in front of a coordinator: the text of docs/how-to/run-a-coordinator.md, and nothing of this system's own."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.processes import end

__all__ = ["nginx_in_front", "shown_configuration"]

PAGE = Path(__file__).parents[2] / "docs/how-to/run-a-coordinator.md"
START_SECONDS = 20.0
AROUND = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include shown.conf;
}}
"""
"""What a distribution brings: where files go, and nothing that the page would have to say."""


def shown_configuration(replaced: Mapping[str, str]) -> str:
    """The page's block, with each of these words put in another's place; every one of them has to be there."""
    (text,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for shown, ours in replaced.items():
        assert text.count(shown) == 1, f"{shown!r} is not in the page just once"
        text = text.replace(shown, ours)
    return str(text)


@contextlib.contextmanager
def nginx_in_front(directory: Path, *, certificate: Path, key: Path, listen: int, port: int) -> Iterator[None]:
    """nginx at localhost:`listen`, before a coordinator on `port` that may come later. Ended by its own pid.

    Skips the test where there is no nginx.
    """
    program = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if program is None:
        pytest.skip("there is no nginx here: install the package nginx-light")
    replaced = {
        "listen 443 ssl": f"listen 127.0.0.1:{listen} ssl",
        "coordinator.example": "localhost",
        "/etc/ssl/example.pem": str(certificate),
        "/etc/ssl/private/example.key": str(key),
        "127.0.0.1:8080": f"127.0.0.1:{port}",
    }
    (directory / "shown.conf").write_text(shown_configuration(replaced))
    root = os.geteuid() == 0  # nginx would give its workers to somebody who cannot see our directories
    (directory / "nginx.conf").write_text(AROUND.format(user=f"user {pwd.getpwuid(0).pw_name};" if root else ""))
    log = directory / "nginx.log"
    command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, cwd=directory)
    try:
        _wait_until_it_listens(process, listen, log)
        yield
    finally:
        end(process)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """By asking again and again: nginx does not say when it is ready."""
    for _ in range(int(START_SECONDS / 0.1)):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            raise AssertionError(f"nginx ended: {log.read_text(errors='replace')[-1000:]}")
    raise AssertionError(f"nginx does not listen: {log.read_text(errors='replace')[-1000:]}")
