"""A client that costs little: HTTP/2 frames or WebSocket frames over sockets, so that the server is what is measured.

As a process of its own it connects, says ``ready``, and then obeys a line of JSON at a time:
``{"warm_up": seconds, "seconds": seconds}`` measures, which is answered by ``measuring`` at its beginning and a line
of JSON at its end, and ``{"head": sequence}`` asks how many signals up to there are missing. It reads all the time.
"""

import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from oddstream.v1 import signal_pb2

SERVICE, METHOD = "oddstream.v1.SignalService", "WatchSignals"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_UPDATE_AFTER = 32 * 1024 * 1024


def _envelope() -> Any:
    """WatchSignalsResponse with its events left as bytes: reading them all would cost more than sending them."""
    file = descriptor_pb2.FileDescriptorProto(name="bench_envelope.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Envelope")
    kind = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="events", number=1, type=kind.TYPE_BYTES, label=kind.LABEL_REPEATED)
    message.field.add(name="after_sequence", number=2, type=kind.TYPE_INT64, label=kind.LABEL_OPTIONAL)
    message.field.add(name="through_sequence", number=3, type=kind.TYPE_INT64, label=kind.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Envelope"))


Envelope = _envelope()


class Passing:
    """How many signals of a stretch a filter lets pass, where the signals repeat."""

    def __init__(self, pool: Sequence[bool]) -> None:
        """:param pool: for each number, whether it passes; sequence n has number n modulo their count."""
        self._until = [0, *accumulate(map(int, pool))]
        self._count = len(pool)

    def between(self, after: int, through: int) -> int:
        return self._upto(through) - self._upto(after)

    def _upto(self, sequence: int) -> int:
        rounds, number = divmod(sequence + 1, self._count)
        return rounds * self._until[-1] + self._until[number]


@dataclass(slots=True)
class Stream:
    passing: Passing | None = None
    received: bytearray = field(default_factory=bytearray)
    start: int = 0
    through: int = -1
    events: int = 0
    skips: bool = False
    """True where only messages with a match come, each with the stretch of its one signal."""

    def missing(self, head: int) -> int:
        """How many signals up to there should have come and didn't."""
        due = head - self.start if self.passing is None else self.passing.between(self.start, head)
        return due - self.events


class Measure:
    """Reads every message as far as it takes to know that nothing is lost, and times the last event of each."""

    def __init__(self) -> None:
        self.measuring = False
        self.started = 0
        self.messages = self.events = self.broken = 0
        """Broken are messages that don't begin where the one before ended, or whose events aren't all of the
        stretch that pass the filter; counted from the first message on."""
        self.received_bytes = 0
        self.latencies_s: list[float] = []

    def begin(self) -> None:
        self.messages = self.events = self.received_bytes = 0
        self.latencies_s.clear()
        self.measuring = True

    def message(self, stream: Stream, body: bytes) -> None:
        message = Envelope.FromString(body)
        count, after, through = len(message.events), message.after_sequence, message.through_sequence
        last = stream.through
        stream.events += count
        if last < 0:
            self.started += 1
            stream.start = through - count
        elif stream.passing is None:
            self.broken += after != last or count != through - after
        elif stream.skips:
            self.broken += count != 1 or stream.passing.between(last, through) != 1
        else:
            self.broken += after != last or count != stream.passing.between(after, through)
        stream.through = through
        if self.measuring:
            self.messages += 1
            self.events += count
            self.received_bytes += len(body)
            if count:
                made = signal_pb2.SignalEvent.FromString(message.events[-1]).create_time
                self.latencies_s.append(time.time() - made.seconds - made.nanos / 1e9)


# --- gRPC ------------------------------------------------------------------------------------------------------------


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


class Connection:
    """One HTTP/2 connection with a stream for each request.

    :param requests: each with how to tell what its filter lets pass, or None for everything.
    """

    def __init__(
        self,
        port: int,
        path: str,
        requests: Sequence[tuple[bytes, Passing | None]],
        measure: Measure,
        key: str = "",
        *,
        skips: bool = False,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._measure = measure
        self._buffer = bytearray()
        self._unacknowledged = 0
        self.streams = {1 + 2 * n: Stream(passing, skips=skips) for n, (_, passing) in enumerate(requests)}
        settings = struct.pack(">HIHIHI", 2, 0, 4, _LARGEST_WINDOW, 5, 1 << 20)
        opening = [_PREFACE, _frame(_SETTINGS, 0, 0, settings)]
        opening.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - 65_535)))
        headers = _request_headers(path.encode(), key.encode())
        for number, (request, _) in zip(self.streams, requests, strict=True):
            opening.append(_frame(_HEADERS, _END_HEADERS, number, headers))
            opening.append(_frame(_DATA, _END_STREAM, number, b"\x00" + struct.pack(">I", len(request)) + request))
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
        if not received and len(payload) == 5 + int.from_bytes(payload[1:5]):
            self._measure.message(stream, payload[5:])  # a message in one frame, as most are
            return
        received += payload
        at = 0
        while len(received) - at >= 5:
            length = struct.unpack_from(">I", received, at + 1)[0]
            if len(received) - at < 5 + length:
                break
            self._measure.message(stream, bytes(received[at + 5 : at + 5 + length]))
            at += 5 + length
        del received[:at]


# --- WebSocket -------------------------------------------------------------------------------------------------------


class WebSocket:
    """One WebSocket connection, which is one stream."""

    def __init__(self, port: int, path: str, passing: Passing | None, measure: Measure) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = Stream(passing, skips=True)
        self.streams = {0: self._stream}
        self._measure = measure
        self._opened = False
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def read(self) -> None:
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        received = self._stream.received
        received += chunk
        at = 0
        if not self._opened:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in received[:16]:
                raise ConnectionError(f"the server refused the socket: {bytes(received[:80])!r}")
            self._opened = True
            at = end + 4
        while len(received) - at >= 2:
            length, head = received[at + 1], 2
            if length == 126:
                length, head = int.from_bytes(received[at + 2 : at + 4]), 4
            elif length == 127:
                length, head = int.from_bytes(received[at + 2 : at + 10]), 10
            if len(received) - at < head + length:
                break
            if received[at] != 0x82:
                raise ConnectionError(f"the server sent frame {received[at]:#x} instead of a whole binary message")
            self._measure.message(self._stream, bytes(received[at + head : at + head + length]))
            at += head + length
        del received[:at]


# --- the process -----------------------------------------------------------------------------------------------------


class Client:
    """All connections of one server, read by one loop that also takes orders from stdin."""

    def __init__(self, measure: Measure, connections: Sequence[Connection | WebSocket]) -> None:
        self.measure = measure
        self._connections = connections
        self._selector = selectors.DefaultSelector()
        for connection in connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def read(self, until: Callable[[], bool]) -> None:
        while not until():
            for key, _ in self._selector.select(timeout=0.05):
                if key.data is None:
                    return
                key.data.read()

    def run(self) -> None:
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            self.read(lambda: False)
            line = sys.stdin.readline()
            if not line:
                return
            order = json.loads(line)
            if "head" in order:
                streams = [stream for connection in self._connections for stream in connection.streams.values()]
                answer: dict[str, float] = {"missing": sum(abs(stream.missing(order["head"])) for stream in streams)}
            else:
                self._selector.unregister(sys.stdin)
                answer = self._measured(order["warm_up"], order["seconds"])
                self._selector.register(sys.stdin, selectors.EVENT_READ, None)
            print(json.dumps(answer), flush=True)

    def _measured(self, warm_up_s: float, seconds: float) -> dict[str, float]:
        measure = self.measure
        end = time.monotonic() + warm_up_s
        self.read(lambda: time.monotonic() >= end)
        print("measuring", flush=True)
        measure.begin()
        began, busy = time.monotonic(), time.process_time()
        self.read(lambda: time.monotonic() >= began + seconds)
        took = time.monotonic() - began
        measure.measuring = False
        late = sorted(measure.latencies_s) or [float("nan")]
        return {
            "deliveries_per_s": measure.events / took,
            "messages_per_s": measure.messages / took,
            "megabytes_per_s": measure.received_bytes / took / 1e6,
            "broken": measure.broken,
            "p50_ms": late[len(late) // 2] * 1000,
            "p99_ms": late[int(len(late) * 0.99)] * 1000,
            "client_busy": (time.process_time() - busy) / took,
        }
