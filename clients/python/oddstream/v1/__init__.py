"""Generated stubs of the API ``oddstream.v1``: ``from oddstream.v1 import market_pb2, market_service_pb2_grpc``."""
