"""One module a kind of signal."""
