"""Asks `/health` ten times a second until stdin ends, then prints the seconds each answer took, as a JSON list.

A process of its own: what else the benchmark does must not be counted against the coordinator.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

__all__ = ["main"]

EVERY_SECONDS = 0.1
TIMEOUT_SECONDS = 10.0


def main(url: str) -> None:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT_SECONDS)
    seconds: list[float] = []
    while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        begun = time.perf_counter()
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
            seconds.append(TIMEOUT_SECONDS)  # no answer is the worst answer
        else:
            seconds.append(time.perf_counter() - begun)
    sys.stdout.write(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
