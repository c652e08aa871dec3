"""Streams from the reader's side: what a watch knows over all its connections, and what drives it."""
