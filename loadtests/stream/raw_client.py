"""A client that costs little: HTTP/2 frames over sockets, so that the server is what is measured.

Run as a process of its own; it prints one JSON object with what it received.
"""

import json
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

from oddstream.v1 import signal_service_pb2

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_UPDATE_AFTER = 32 * 1024 * 1024


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value  # every value here is shorter than 127


def _request_headers(path: bytes, key: bytes) -> bytes:
    headers = (
        b"\x83\x86",  # :method POST, :scheme http
        b"\x04" + _text(path),
        b"\x01" + _text(b"localhost"),
        b"\x0f\x10" + _text(b"application/grpc"),
        b"\x00" + _text(b"te") + _text(b"trailers"),
        b"\x00" + _text(b"authorization") + _text(b"Bearer " + key) if key else b"",
    )
    return b"".join(headers)


@dataclass
class Stream:
    received: bytearray = field(default_factory=bytearray)
    through: int = -1
    messages: int = 0
    events: int = 0


@dataclass
class Result:
    seconds: float = 0.0
    messages: int = 0
    events: int = 0
    broken: int = 0
    """Messages that don't begin where the one before ended, or whose events aren't all of the stretch."""
    latencies_s: list[float] = field(default_factory=list)


class Connection:
    """One socket with several streams."""

    def __init__(
        self, port: int, path: bytes, request: bytes, streams: int, measure: "Measure", key: bytes = b""
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._measure = measure
        self._buffer = bytearray()
        self._unacknowledged = 0
        self.streams = {1 + 2 * n: Stream() for n in range(streams)}
        settings = struct.pack(">HIHIHI", 2, 0, 4, _LARGEST_WINDOW, 5, 1 << 20)
        body = b"\x00" + struct.pack(">I", len(request)) + request
        opening = [_PREFACE, _frame(_SETTINGS, 0, 0, settings)]
        opening.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65_535)))
        for number in self.streams:
            opening.append(_frame(_HEADERS, _END_HEADERS, number, _request_headers(path, key)))
            opening.append(_frame(_DATA, _END_STREAM, number, body))
        self.socket.sendall(b"".join(opening))

    def read(self) -> None:
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        buffer = self._buffer
        buffer += chunk
        at = 0
        while len(buffer) - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = bytes(buffer[at + 9 : at + 9 + length])
            stream = struct.unpack_from(">I", buffer, at + 5)[0]
            at += 9 + length
            self._take(kind, flags, stream, payload)
        del buffer[:at]

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged > _UPDATE_AFTER:
                self.socket.sendall(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged)))
                self._unacknowledged = 0
            self._data(self.streams[number], payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RST, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            raise ConnectionError(f"the server ended stream {number}: frame {kind}, {payload!r}")

    def _data(self, stream: Stream, payload: bytes) -> None:
        received = stream.received
        received += payload
        at = 0
        while len(received) - at >= 5:
            length = struct.unpack_from(">I", received, at + 1)[0]
            if len(received) - at < 5 + length:
                break
            self._measure.message(stream, bytes(received[at + 5 : at + 5 + length]))
            at += 5 + length
        del received[:at]


class Measure:
    """Reads every message as a bot would, and times the last event of each."""

    def __init__(self) -> None:
        self.result = Result()
        self.measuring = False
        self.started = 0

    def message(self, stream: Stream, body: bytes) -> None:
        message = signal_service_pb2.WatchSignalsResponse.FromString(body)
        count = len(message.events)
        if stream.through < 0:
            self.started += 1
        elif message.after_sequence != stream.through or count != message.through_sequence - message.after_sequence:
            self.result.broken += 1
        stream.through = message.through_sequence
        if self.measuring:
            self.result.messages += 1
            self.result.events += count
            if count:
                made = message.events[-1].create_time
                self.result.latencies_s.append(time.time() - made.seconds - made.nanos / 1e9)


def main() -> None:
    port, path, streams, connections, warm_up_s, seconds = sys.argv[1:7]
    measure = Measure()
    request = signal_service_pb2.WatchSignalsRequest().SerializeToString()
    selector = selectors.DefaultSelector()
    each = int(streams) // int(connections)
    for _ in range(int(connections)):
        connection = Connection(int(port), path.encode(), request, each, measure)
        selector.register(connection.socket, selectors.EVENT_READ, connection)

    def read_for(until: float) -> None:
        while time.monotonic() < until:
            for key, _ in selector.select(timeout=0.05):
                key.data.read()

    while measure.started < each * int(connections):
        read_for(time.monotonic() + 0.05)
    print("ready", flush=True)
    read_for(time.monotonic() + float(warm_up_s))
    measure.measuring = True
    began = time.monotonic()
    read_for(began + float(seconds))
    result = measure.result
    result.seconds = time.monotonic() - began
    late = sorted(result.latencies_s) or [0.0]
    print(
        json.dumps(
            {
                "deliveries_per_s": result.events / result.seconds,
                "messages_per_s": result.messages / result.seconds,
                "broken": result.broken,
                "p50_ms": late[len(late) // 2] * 1000,
                "p99_ms": late[int(len(late) * 0.99)] * 1000,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
