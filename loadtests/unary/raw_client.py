"""Clients that cost little, over bare sockets, so that the server is what is measured: unary gRPC over HTTP/2, and
HTTP/1.1. A fixed number of calls is in flight; each answer is followed by the next call. Prints one JSON object.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time
from typing import Protocol

from loadtests.stream.raw_client import _frame, _text

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_STREAMS_A_CONNECTION = 1 << 29
CONNECTIONS = 32
CALLS_A_CONNECTION = 1


class Caller(Protocol):
    socket: socket.socket

    def read(self) -> int:
        """How many answers came; each was followed by a call."""
        ...


class GrpcCaller:
    def __init__(self, port: int, path: str, key: str, request: bytes, minimum_bytes: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._minimum = minimum_bytes
        value = f"Bearer {key}".encode()
        self._headers = b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                b"\x04" + _text(path.encode()),
                b"\x01" + _text(b"localhost"),
                b"\x0f\x10" + _text(b"application/grpc"),
                b"\x00" + _text(b"te") + _text(b"trailers"),
                b"\x0f\x08" + _text(value),  # authorization, as a literal that no table remembers
            )
        )
        self._body = b"\x00" + struct.pack(">I", len(request)) + request
        self._buffer = bytearray()
        self._received: dict[int, int] = {}
        self._unacknowledged = 0
        self._next = 1
        settings = struct.pack(">HIHI", 4, 2**31 - 1, 5, 1 << 20)
        window = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535))
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)
        self.socket.sendall(b"".join(self._call() for _ in range(CALLS_A_CONNECTION)))

    def _call(self) -> bytes:
        number = self._next
        self._next += 2
        self._received[number] = 0
        return _frame(_HEADERS, _END_HEADERS, number, self._headers) + _frame(_DATA, _END_STREAM, number, self._body)

    def read(self) -> int:
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        buffer = self._buffer
        buffer += chunk
        at = answered = 0
        out: list[bytes] = []
        while len(buffer) - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = struct.unpack_from(">I", buffer, at + 5)[0]
            payload = bytes(buffer[at + 9 : at + 9 + length])
            at += 9 + length
            if kind == _DATA:
                self._received[number] += length
                self._unacknowledged += length
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                out.append(_frame(_PING, _ACK, 0, payload))
            elif kind in (_RST, _GOAWAY):
                raise ConnectionError(f"the server ended stream {number}: frame {kind}, {payload!r}")
            if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                if self._received.pop(number) < self._minimum:
                    raise ConnectionError(f"the answer is too short to be one: {payload!r}")
                answered += 1
                out.append(self._call())
        del buffer[:at]
        if self._unacknowledged > 1 << 24:
            out.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged)))
            self._unacknowledged = 0
        if out:
            self.socket.sendall(b"".join(out))
        return answered


class HttpCaller:
    """One call in flight: HTTP/1.1 has no more on a connection."""

    def __init__(self, port: int, path: str, key: str, minimum_bytes: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._minimum = minimum_bytes
        self._call = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        self._buffer = b""
        self.socket.sendall(self._call)

    def read(self) -> int:
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        self._buffer += chunk
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return 0
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"the server answers {head[:60]!r}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) < length:
            return 0
        if length < self._minimum:
            raise ConnectionError("the answer is too short to be one")
        self._buffer = rest[length:]
        self.socket.sendall(self._call)
        return 1


def main() -> None:
    kind, port, paths, key, requests, minimum, warm_up, seconds = sys.argv[1:9]
    callers: list[Caller]
    if kind == "grpc":
        bodies = [bytes.fromhex(request) for request in requests.split(",")]
        callers = [GrpcCaller(int(port), paths, key, bodies[n % len(bodies)], int(minimum)) for n in range(CONNECTIONS)]
    else:
        asked = paths.split(",")
        callers = [
            HttpCaller(int(port), asked[n % len(asked)], key, int(minimum))
            for n in range(CONNECTIONS * CALLS_A_CONNECTION)
        ]
    selector = selectors.DefaultSelector()
    for caller in callers:
        selector.register(caller.socket, selectors.EVENT_READ, caller)

    def read_until(until: float) -> int:
        answered = 0
        while time.monotonic() < until:
            for found, _ in selector.select(timeout=0.05):
                answered += found.data.read()
        return answered

    read_until(time.monotonic() + float(warm_up))
    print("measuring", flush=True)
    began = time.monotonic()
    answered = read_until(began + float(seconds))
    print(json.dumps({"calls": answered, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    os.sched_setaffinity(0, {1})
    main()
