"""Secrets as the rest sees them: sealed in rows, held in memory, keys at venues."""
