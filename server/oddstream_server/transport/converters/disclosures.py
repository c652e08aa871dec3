"""The risk disclosures of the domain as messages."""

from oddstream.v1 import disclaimer_pb2
from oddstream_server.domain.disclosures import TEXTS


def disclaimer(code: str) -> disclaimer_pb2.Disclaimer:
    return disclaimer_pb2.Disclaimer(code=code, text=TEXTS[code])
