"""Which stores of secrets the settings set up, and who asks them for what."""

import re
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from oddstream_server.application.secrets.provider import SecretError, SecretProvider, SecretReference
from oddstream_server.domain.errors import Unavailable
from oddstream_server.embedded.keys import KEY_BYTES, Keyring, load_or_make_keys
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.secrets.aws import STORE as AWS
from oddstream_server.secrets.aws import AwsSecretsManager
from oddstream_server.secrets.held import HeldSecrets
from oddstream_server.secrets.plain import EnvironmentSecrets, FileSecrets
from oddstream_server.secrets.vault import DATABASE, KEY_VALUE, Vault, VaultConfig
from oddstream_server.settings import Settings, aws_environment, own_environment
from oddstream_server.storage.connector import DatabaseLogin


class KeyringUnusable(Exception):
    """Names the reference and the field, never a key."""


def open_vault(settings: Settings) -> Vault | None:
    if settings.vault_url is None:
        return None
    return Vault(
        VaultConfig(
            url=settings.vault_url,
            token=settings.vault_token.get_secret_value() if settings.vault_token else None,
            role_id=settings.vault_role_id,
            secret_id=settings.vault_secret_id.get_secret_value() if settings.vault_secret_id else None,
            secret_id_file=settings.vault_secret_id_file,
            namespace=settings.vault_namespace,
            ca_file=settings.vault_ca_file,
        )
    )


def open_secrets(settings: Settings, registry: CollectorRegistry) -> HeldSecrets:
    """One a process; its stores are asked for the first time when something is wanted of them."""
    providers: dict[str, SecretProvider] = {"env": EnvironmentSecrets(own_environment()), "file": FileSecrets()}
    vault = open_vault(settings)
    if vault is not None:
        providers |= {KEY_VALUE: vault, DATABASE: vault}
    if settings.aws_region is not None:
        providers[AWS] = AwsSecretsManager(settings.aws_region, aws_environment(), settings.aws_endpoint_url)
    return HeldSecrets(providers, registry)


@dataclass(frozen=True, slots=True)
class SecretLogins:
    """Fulfils :class:`~oddstream_server.storage.connector.DatabaseLogins`, and gives Redis its credentials."""

    secrets: HeldSecrets
    reference: SecretReference

    async def current(self) -> DatabaseLogin:
        """:raises Unavailable: nothing is held and the store is away."""
        try:
            held = await self.secrets.get(self.reference)
            password = held.secret.get(self.reference, "password")
        except SecretError as error:
            raise Unavailable("a login of this server can't be had; come again") from error
        user = None if self.reference.field else held.secret.fields.get("username")
        return DatabaseLogin(user, password, held.expire_at)

    def refused(self, login: DatabaseLogin) -> None:
        self.secrets.refused(self.reference)

    async def user_and_password(self) -> tuple[str | None, str]:
        login = await self.current()
        return login.user, login.password or ""


async def read_keyring(settings: Settings, secrets: HeldSecrets, *, database_is_new: bool = False) -> Keyring:
    """Peppers and data keys: of the settings' store, or the data folder's files, which are made for a new database.

    In a store it is one secret with the fields ``pepper.1``, ``data_key.1`` and so on, 64 hexadecimal digits each.

    :raises KeyringUnusable: the store has none that is whole.
    :raises EmbeddedError: the files are lost, damaged or open to others; the text says what to do.
    """
    if settings.keyring is None:
        return load_or_make_keys(DataFolder.at(settings.data_dir).keys, database_is_new=database_is_new)
    try:
        fields = (await secrets.get(settings.keyring)).secret.fields
    except SecretError as error:
        raise KeyringUnusable(str(error)) from None
    keys: dict[str, dict[int, bytes]] = {"pepper": {}, "data_key": {}}
    for name, text in fields.items():
        match = re.fullmatch(r"(pepper|data_key)\.([1-9]\d*)", name)
        if match is None:
            continue
        if not re.fullmatch(rf"[0-9a-f]{{{KEY_BYTES * 2}}}", text):
            raise KeyringUnusable(f"{settings.keyring}: the field {name} is not {KEY_BYTES * 2} hexadecimal digits")
        keys[match[1]][int(match[2])] = bytes.fromhex(text)
    missing = [f"{kind}.1" for kind, versions in keys.items() if not versions]
    if missing:
        raise KeyringUnusable(f"{settings.keyring}: lacks the field {missing[0]}, 64 random hexadecimal digits")
    return Keyring(peppers=keys["pepper"], data_keys=keys["data_key"])
