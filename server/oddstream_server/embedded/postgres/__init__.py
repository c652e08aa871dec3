"""The embedded PostgreSQL: its cluster and its settings."""
