"""Messages that only the server makes and reads, generated from ``proto/oddstream/internal``."""
