"""What is known of every method that the server may register: the contract's, and the standard services' by name."""

from collections.abc import Mapping

from oddstream_server.application.access.authorization import Access
from oddstream_server.domain.principal import Role
from oddstream_server.interceptors.call import Method, MethodKind
from oddstream_server.transport.contract import PACKAGE, Contract

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

STANDARD_METHODS = (
    # Balancers and kubelets have no key; all they learn is whether we serve.
    Method(HEALTH, "Check", MethodKind.UNARY, open_to_all=True),
    Method(HEALTH, "Watch", MethodKind.SERVER_STREAM, open_to_all=True),
    Method(REFLECTION, "ServerReflectionInfo", MethodKind.BIDI_STREAM, Access("reflection.read", Role.VIEWER, cost=10)),
)


def method_table(contract: Contract) -> Mapping[str, Method]:
    """By full name."""
    declared = [
        Method(
            f"{PACKAGE}.{method.service}",
            method.name,
            MethodKind.SERVER_STREAM if method.server_streaming else MethodKind.UNARY,
            Access(method.permission, method.role, method.cost),
        )
        for method in contract.methods.values()
    ]
    return {method.full_name: method for method in (*declared, *STANDARD_METHODS)}
