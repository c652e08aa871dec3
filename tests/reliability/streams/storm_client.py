"""Many clients in one process, each with a connection of its own, that all connect at the same moment.

Run as a program: ``storm_client.py PORT KEY REQUEST_HEX CLIENTS``. For each line on stdin it opens all of them, waits
until each has its stream (the first message, which tells the terms), and prints how many seconds the last one took.
"""

import selectors
import sys
import time

from loadtests.stream.raw_client import METHOD, SERVICE, Connection, Measure


def storm(port: int, key: str, request: bytes, clients: int) -> float:
    """:raises ConnectionError: a connection was refused or a stream ended."""
    measure = Measure()
    selector = selectors.DefaultSelector()
    began = time.monotonic()
    connections = [Connection(port, f"/{SERVICE}/{METHOD}", [(request, None)], measure, key) for _ in range(clients)]
    try:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while measure.started < clients:
            for ready, _ in selector.select(timeout=1.0):
                ready.data.read()
            if time.monotonic() - began > 60:
                raise ConnectionError(f"{measure.started} of {clients} have a stream after 60 s")
        return time.monotonic() - began
    finally:
        for connection in connections:
            connection.socket.close()


def main() -> None:
    port, key, request, clients = sys.argv[1:]
    for _ in sys.stdin:
        try:
            print(f"{storm(int(port), key, bytes.fromhex(request), int(clients)):.3f}", flush=True)
        except ConnectionError as error:
            print(f"failed: {error}", flush=True)


if __name__ == "__main__":
    main()
