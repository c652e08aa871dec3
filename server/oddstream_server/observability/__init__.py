"""Logs, metrics and the operations port."""
