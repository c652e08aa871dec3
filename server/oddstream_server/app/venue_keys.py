"""Keys at venues: where the pipeline finds them, and the commands that keep them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from oddstream_server.app.data import Refused, stored_data
from oddstream_server.app.process import now_us
from oddstream_server.app.secrets import KeyringUnusable, open_secrets, open_vault, read_keyring
from oddstream_server.application.secrets.provider import SecretError, SecretReference
from oddstream_server.application.secrets.venue_credentials import (
    CredentialUnreadable,
    KeyringWrapper,
    KeyWrapper,
    VenueCredential,
    VenueCredentials,
)
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.market import Venue
from oddstream_server.embedded.keys import replace_secret
from oddstream_server.secrets.held import HeldSecrets
from oddstream_server.secrets.transit import TransitWrapper
from oddstream_server.settings import Settings
from oddstream_server.storage.database import Database
from oddstream_server.storage.venue_credentials import PostgresVenueCredentials
from oddstream_server.venues.kalshi.signing import KalshiSigner

WITH_KEYS = (Venue.KALSHI,)
"""Polymarket's data is public, and the simulated venue has no keys."""


async def key_wrapper(settings: Settings, secrets: HeldSecrets) -> KeyWrapper:
    vault = open_vault(settings)
    if settings.vault_transit_key is not None and vault is not None:
        return TransitWrapper(vault, settings.vault_transit_key)
    return KeyringWrapper((await read_keyring(settings, secrets)).data_keys)


async def kalshi_credential(settings: Settings, secrets: HeldSecrets, database: Database) -> VenueCredential | None:
    """Kalshi's key of the settings, else the one that is kept sealed, else none.

    :raises SecretError: the settings name a secret that can't be had.
    :raises CredentialUnreadable: one is kept and its keys don't open it.
    """
    if settings.kalshi_key is not None:
        found = (await secrets.get(settings.kalshi_key)).secret
        return VenueCredential(found.get(settings.kalshi_key, "key_id"), found.get(settings.kalshi_key, "private_key"))
    if settings.kalshi_key_id is not None and settings.kalshi_private_key_file is not None:
        return VenueCredential(settings.kalshi_key_id, settings.kalshi_private_key_file.read_text(encoding="utf-8"))
    store = PostgresVenueCredentials(database)
    if await store.find(Venue.KALSHI) is None:
        return None
    return await VenueCredentials(store, await key_wrapper(settings, secrets), now_us).get(Venue.KALSHI)


@asynccontextmanager
async def _credentials(settings: Settings) -> AsyncIterator[VenueCredentials]:
    async with stored_data(settings) as database:
        try:
            wrapper = await key_wrapper(settings, open_secrets(settings, CollectorRegistry()))
            yield VenueCredentials(PostgresVenueCredentials(database), wrapper, now_us)
        except (SecretError, KeyringUnusable, CredentialUnreadable) as error:
            raise Refused(str(error)) from None


def venue_named(name: str) -> Venue:
    """:raises Refused: it is none that keys are kept for."""
    known = {venue.value: venue for venue in WITH_KEYS}
    if name not in known:
        raise Refused(f"keys are kept for {', '.join(known)}")
    return known[name]


async def set_venue_key(settings: Settings, venue: str, key_id: str, private_key_file: Path) -> None:
    try:
        private_key = private_key_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise Refused(f"{private_key_file} can't be read as text") from None
    try:
        KalshiSigner(key_id, private_key.encode(), now_us)
    except InvalidArgument as error:
        raise Refused(str(error)) from None
    async with _credentials(settings) as credentials:
        await credentials.set(venue_named(venue), VenueCredential(key_id, private_key))
    Console().print(f"the key of {venue} is kept sealed; delete {private_key_file}, and restart the pipeline to use it")


async def list_venue_keys(settings: Settings) -> None:
    table = Table("venue", "wrapped by", "revision", box=None)
    async with _credentials(settings) as credentials:
        for row in await credentials.list():
            table.add_row(row.venue.value, row.wrapping_key, str(row.revision))
    Console().print(table)


async def remove_venue_key(settings: Settings, venue: str) -> None:
    async with _credentials(settings) as credentials:
        if not await credentials.remove(venue_named(venue)):
            raise Refused(f"no key of {venue} is kept")
    Console().print(f"the key of {venue} is gone; revoke it at the venue too")


async def reseal_venue_keys(settings: Settings) -> None:
    """With the newest wrapping key; what it has wrapped already stays."""
    async with _credentials(settings) as credentials:
        count = await credentials.reseal()
    Console().print(f"sealed anew: {count}")


async def write_secret(settings: Settings, reference_text: str, file: Path) -> None:
    """Write a secret to a file (mode 0600) for a program that reads files alone, e.g. a webhook for Alertmanager."""
    try:
        reference = SecretReference.parse(reference_text)
        found = (await open_secrets(settings, CollectorRegistry()).get(reference)).secret.get(reference)
    except (ValueError, SecretError) as error:
        raise Refused(str(error)) from None
    replace_secret(file, found)
    Console().print(f"written to {file}")
