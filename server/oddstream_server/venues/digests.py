"""Identities of ticks for which the venue gives none."""

import hashlib


def signed_key(*parts: object) -> int:
    """A signed 64-bit digest of the parts: a quote's source key where there is no sequence number."""
    return int.from_bytes(_hash(parts).digest()[:8], "big", signed=True)


def fill_key(occurrence: int, *parts: object) -> str:
    """A trade's source key where the venue gives no id.

    :param occurrence: 0 for the first fill with these parts, 1 for the next: one transaction can hold several
        fills that look the same, and each of them counts.
    """
    digest = _hash(parts).hexdigest()[:40]
    return digest if occurrence == 0 else f"{digest}-{occurrence}"


def _hash(parts: tuple[object, ...]) -> "hashlib._Hash":
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode())
