"""What the chain and the database cost a unary call, beside a bare gRPC echo and a FastAPI service."""
