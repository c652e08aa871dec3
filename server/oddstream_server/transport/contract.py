"""The contract as the server enforces it: each rpc's access rule, and the validation rules of its request.

The client's stubs carry no validation rules, so that no bot imports a top-level ``buf`` package. The rules live in
``contract.binpb``, a committed descriptor set, and are evaluated on classes of a descriptor pool of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

from oddstream.v1 import access_pb2
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.principal import Role

PACKAGE = "oddstream.v1"
MAXIMUM_VIOLATIONS = 20

PATTERNS: Mapping[str, str] = {
    "^(kalshi|polymarket|polymarket_us|simulated):[!-~]{1,200}$": (
        "must be <venue>:<the venue's own id> with a venue of kalshi, polymarket, polymarket_us, simulated, "
        "e.g. kalshi:KXBTC-26JUL0302-B50750"
    ),
    "^[!-~]{1,200}$": "must be 1 to 200 printable ASCII characters without spaces",
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$": (
        "must be a UUID of version 4, e.g. 0b9f3c52-6d1e-4a57-9c0e-2f6a8f0d1c3b, or empty"
    ),
    "^[0-9a-f]{64}$": "must be a SHA-256 in lower-case hex, as the answers of this API carry it",
    "^[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)+$": "must be a kind such as arb.event_sum; ListStrategies names them",
    "^[a-z][a-z0-9_.:-]*$": "must be the id of a strategy, such as stat.mean_reversion; ListStrategies names them",
    "^[a-z][a-z0-9_]{0,63}$": "must be the name of a parameter in lower_snake_case; GetStrategy names them",
    "^sig_[a-z2-7]{26,40}$": "must be the id of a signal: sig_ and 26 to 40 characters of a-z and 2-7",
    "^opp_[a-z2-7]{26,40}$": "must be the id of an opportunity: opp_ and 26 to 40 characters of a-z and 2-7",
    "^bt_[a-z2-7]{16,40}$": "must be the id of a backtest: bt_ and 16 to 40 characters of a-z and 2-7",
    "^swp_[a-z2-7]{16,40}$": "must be the id of a sweep: swp_ and 16 to 40 characters of a-z and 2-7",
    "^lnk_[a-z2-7]{16,40}$": "must be the id of a market link: lnk_ and 16 to 40 characters of a-z and 2-7",
    "^hlt_[a-z2-7]{16,40}$": "must be the id of a halt: hlt_ and 16 to 40 characters of a-z and 2-7",
    "^ds_[a-z2-7]{16,40}$": "must be the id of a data set: ds_ and 16 to 40 characters of a-z and 2-7",
    "^key_[0-9a-z]{12,40}$": "must be the id of an API key: key_ and 12 to 40 characters of a-z and 0-9",
}
"""What each pattern of the contract means, in words that tell the way out."""

_TIMES = ("google.protobuf.Timestamp", "google.protobuf.Duration")
_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc of the contract."""

    full_name: str
    """As gRPC names it, e.g. ``/oddstream.v1.MarketService/GetMarket``."""
    service: str
    """The short name, e.g. ``MarketService``: what a key's scopes name."""
    name: str
    permission: str
    role: Role
    """The lowest role that may call it."""
    cost: int
    """What a call takes from the rate limit."""
    read_only: bool
    """True where a call changes nothing, so that it takes no request id and may go to a replica."""
    server_streaming: bool


class Contract:
    """The rpcs of the contract by full name. Immutable after it was made; safe to share between tasks and threads."""

    def __init__(self, descriptor_set: bytes) -> None:
        """:param descriptor_set: a serialised FileDescriptorSet with the validation rules, imports included."""
        pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
        for file in files:
            pool.AddSerializedFile(file.SerializeToString())
        self._validator = protovalidate.Validator()
        self._request_classes: dict[str, type[Message]] = {}
        self._time_fields: dict[str, tuple[FieldDescriptor, ...]] = {}
        methods: dict[str, Method] = {}
        for file in files:
            if file.package != PACKAGE:
                continue
            for service in file.service:
                descriptor = pool.FindServiceByName(f"{PACKAGE}.{service.name}")
                for method in descriptor.methods:
                    declared = _method(method)
                    methods[declared.full_name] = declared
                    self._request_classes[declared.full_name] = message_factory.GetMessageClass(method.input_type)
                    self._find_times(method.input_type)
        self.methods: Mapping[str, Method] = methods

    def request_class(self, full_method: str) -> type[Message]:
        """The class of an rpc's request that carries the rules; not the class of the stubs.

        :raises KeyError: the contract has no such rpc.
        """
        return self._request_classes[full_method]

    def violations(self, full_method: str, body: bytes) -> tuple[FieldViolation, ...]:
        """The rules that a serialised request breaks, at most 20, in the order of its fields; empty for a good one.

        :raises InvalidArgument: with the reason MALFORMED_REQUEST, where the bytes are no such message.
        :raises KeyError: the contract has no such rpc.
        """
        request_class = self._request_classes[full_method]
        try:
            request = request_class.FromString(body)
        except DecodeError:
            name = request_class.DESCRIPTOR.full_name
            raise InvalidArgument(
                [FieldViolation("", f"the body must be a serialised {name}, from a client of the same contract")],
                reason="MALFORMED_REQUEST",
            ) from None
        malformed = tuple(self._malformed_times(request, ""))
        if malformed:
            return malformed[:MAXIMUM_VIOLATIONS]
        found = self._validator.collect_violations(request)
        return tuple(_field_violation(request, v) for v in found[:MAXIMUM_VIOLATIONS])

    def check(self, full_method: str, body: bytes) -> None:
        """:raises InvalidArgument: the request breaks a rule (the violations name each), or is malformed."""
        violations = self.violations(full_method, body)
        if violations:
            raise InvalidArgument(violations)

    def _find_times(self, message: Descriptor) -> bool:
        """Note which fields of a message lead to a Timestamp or a Duration; True where any does."""
        name = message.full_name
        if name in _TIMES:
            return True
        if name not in self._time_fields:
            self._time_fields[name] = ()  # a message that contains itself ends here
            self._time_fields[name] = tuple(
                f for f in message.fields if f.message_type is not None and self._find_times(f.message_type)
            )
        return bool(self._time_fields[name])

    def _malformed_times(self, message: Any, path: str) -> Iterator[FieldViolation]:
        """Timestamps and durations whose nanos are out of range, which no rule of the contract can say."""
        for field in self._time_fields[message.DESCRIPTOR.full_name]:
            for value, value_path in _values(message, field, f"{path}{field.name}"):
                name = value.DESCRIPTOR.full_name
                if name not in _TIMES:
                    yield from self._malformed_times(value, f"{value_path}.")
                elif name == _TIMES[0] and not 0 <= value.nanos < _NANOS:
                    yield FieldViolation(value_path, "must have nanos from 0 to 999,999,999")
                elif name == _TIMES[1] and (abs(value.nanos) >= _NANOS or value.seconds * value.nanos < 0):
                    yield FieldViolation(value_path, "must have nanos below 1,000,000,000 with the sign of its seconds")


def load_contract() -> Contract:
    """The contract that this server was built with."""
    return Contract(resources.files(__package__).joinpath("contract.binpb").read_bytes())


def _method(method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    access = options.Extensions[access_pb2.access]
    full_name = f"/{method.containing_service.full_name}/{method.name}"
    if access.role == access_pb2.ROLE_UNSPECIFIED or not access.permission or access.cost < 1:
        raise ValueError(f"{full_name} declares no access rule: give it option (oddstream.v1.access)")
    return Method(
        full_name=full_name,
        service=method.containing_service.name,
        name=method.name,
        permission=access.permission,
        role=Role(access.role),
        cost=access.cost,
        read_only=options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        server_streaming=method.server_streaming,
    )


def _values(message: Any, field: FieldDescriptor, path: str) -> Iterator[tuple[Any, str]]:
    """The messages that a field holds, each with its path."""
    if field.is_repeated:
        held = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            for key in held:
                yield held[key], f'{path}["{key}"]'
        else:
            for index, value in enumerate(held):
                yield value, f"{path}[{index}]"
    elif message.HasField(field.name):
        yield getattr(message, field.name), path


def _field_violation(request: Message, violation: protovalidate.Violation) -> FieldViolation:
    proto = violation.proto
    elements = proto.field.elements if proto.field is not None else ()
    path, field = _path(request.DESCRIPTOR, elements)
    return FieldViolation(path, _description(proto.rule_id, proto.message, violation.rule_value, field))


def _path(request: Any, elements: Sequence[Any]) -> tuple[str, FieldDescriptor | None]:
    """A path such as ``filter.market_ids[3]`` with the descriptor of the field that it ends at."""
    parts: list[str] = []
    message: Descriptor | None = request
    field: FieldDescriptor | None = None
    for element in elements:
        part = element.field_name
        if element.subscript is not None:
            subscript = element.subscript.value
            part += f"[{subscript}]" if element.subscript.field == "index" else f'["{subscript}"]'
        parts.append(part)
        field = message.fields_by_name.get(element.field_name) if message is not None else None
        message = field.message_type if field is not None else None
    return ".".join(parts), field


def _description(rule_id: str, message: str, rule_value: Any, field: FieldDescriptor | None) -> str:
    """The rule and the way out, in words. It never repeats what the caller sent."""
    match rule_id:
        case "string.pattern":
            return PATTERNS[rule_value]
        case "enum.defined_only" | "enum.not_in" | "enum.in" if field is not None and field.enum_type is not None:
            allowed = [
                value.name
                for value in field.enum_type.values
                if value.number in (rule_value if rule_id == "enum.in" else {value.number})
                and (value.number != 0 or rule_id != "enum.not_in")
            ]
            return f"must be one of {', '.join(allowed)}"
        case "required":
            return "must be given: exactly one of its choices" if field is None else "must be given"
        case "repeated.unique":
            return "must not hold the same value twice"
        case _:
            return message
