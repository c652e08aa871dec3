"""Proposals of links between venues' markets: what texts, numbers, dates and names say, for a person to review."""
