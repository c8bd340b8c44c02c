"""Asks a daemon for its health again and again, from a process of its own: `health_watch.py SOCKET`.

Until its stdin ends; then it prints the answers' times in milliseconds, as a JSON list.
"""

import http.client
import json
import select
import socket
import sys
import time

EVERY_S = 0.02
GIVE_UP_S = 10.0


def main(path: str) -> int:
    times_ms = []
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        times_ms.append(ask_ms(path))
    print(json.dumps(times_ms))
    return 0


def ask_ms(path: str) -> float:
    """One request on a connection of its own, as `tampu status` makes it."""
    start = time.monotonic()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(GIVE_UP_S)
        sock.connect(path)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: tampu\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        response.read()
    return (time.monotonic() - start) * 1e3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
