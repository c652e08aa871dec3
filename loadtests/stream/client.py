"""The client's process: ``client.py MODE PORT SUBSCRIBERS PAYLOAD FILTERED``; see :mod:`raw_client`."""

import sys

from loadtests.stream.payloads import FILTERS, POOL, lets_pass, request
from loadtests.stream.raw_client import METHOD, SERVICE, Client, Connection, Measure, Passing, WebSocket
from loadtests.stream.servers import CLIENT_CORE, pin

STREAMS_A_CONNECTION = 100
"""As through an edge, which brings many clients over few connections; a WebSocket is a connection by itself."""
_AT_ONCE = 100
"""Connections that are opened before their answers are read."""


def main() -> None:
    mode, port, subscribers, payload, filtered = sys.argv[1:6]
    pin(CLIENT_CORE)
    measure = Measure()
    numbers = [n % FILTERS if filtered == "1" else None for n in range(int(subscribers))]
    passing = {
        n: None if n is None else Passing([lets_pass(n, number) for number in range(POOL)])
        for n in dict.fromkeys(numbers)
    }
    connections: list[Connection | WebSocket] = []
    step = 1 if mode == "websockets" else STREAMS_A_CONNECTION
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        if mode == "websockets":
            path = f"/{-1 if some[0] is None else some[0]}"
            connections.append(WebSocket(int(port), path, passing[some[0]], measure))
        else:
            requests = [(request(payload, n), passing[n]) for n in some]
            connections.append(
                Connection(
                    int(port), f"/{SERVICE}/{METHOD}", requests, measure, skips=mode == "naive" and filtered == "1"
                )
            )
        if len(connections) % _AT_ONCE == 0:
            wanted = len(connections) * step
            Client(measure, connections).read(lambda wanted=wanted: measure.started >= wanted)  # type: ignore[misc]
    client = Client(measure, connections)
    client.read(lambda: measure.started >= len(numbers))
    print("ready", flush=True)
    client.run()


if __name__ == "__main__":
    main()
