"""Vault's API as a real server speaks it."""

from pathlib import Path

import pytest

from oddstream_server.application.secrets.provider import SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.application.secrets.venue_credentials import CredentialUnreadable
from oddstream_server.secrets.transit import TransitWrapper
from oddstream_server.secrets.vault import Vault, VaultConfig
from tests.secret_stores import VaultServer, vault_server

POLICY = """
path "secret/data/oddstream/*" { capabilities = ["read"] }
path "transit/encrypt/venues" { capabilities = ["update"] }
path "transit/decrypt/venues" { capabilities = ["update"] }
path "transit/keys/venues" { capabilities = ["read"] }
"""


def config(server: VaultServer) -> VaultConfig:
    return VaultConfig(server.url, role_id=server.role_id, secret_id=server.secret_id)


async def test_key_value_secrets_are_read_through_an_approle_whose_token_may_be_revoked(tmp_path: Path) -> None:
    reference = SecretReference.parse("vault:secret/oddstream/database")
    async with vault_server() as server:
        await server.allow(POLICY)
        await server.put("oddstream/database", username="app", password="planted-first")
        await server.put("elsewhere", password="planted-other")
        vault = Vault(config(server))
        assert (await vault.fetch(reference)).fields == {"username": "app", "password": "planted-first"}
        await server.put("oddstream/database", password="planted-second")
        assert (await vault.fetch(reference)).fields == {"password": "planted-second"}

        await server.call("POST", "auth/token/revoke", token=vault._token)  # as an operator would
        assert (await vault.fetch(reference)).fields == {"password": "planted-second"}

        with pytest.raises(SecretMissing, match="has no such secret"):
            await vault.fetch(SecretReference.parse("vault:secret/oddstream/nothing"))
        with pytest.raises(SecretStoreAway, match="does not let us") as refused:
            await vault.fetch(SecretReference.parse("vault:secret/elsewhere"))
        assert "planted" not in str(refused.value) + repr(vault) + repr(config(server))

        secret_id = tmp_path / "secret_id"
        secret_id.write_text("wrong")
        by_file = Vault(VaultConfig(server.url, role_id=server.role_id, secret_id_file=secret_id))
        with pytest.raises(SecretStoreAway, match="refuses the AppRole login"):
            await by_file.fetch(reference)
        secret_id.write_text(f"{server.secret_id}\n")
        assert (await by_file.fetch(reference)).fields == {"password": "planted-second"}

    with pytest.raises(SecretStoreAway, match="can't be reached"):
        await vault.fetch(reference)


async def test_transit_seals_for_one_purpose_under_the_newest_version() -> None:
    async with vault_server() as server:
        await server.allow(POLICY)
        await server.call("POST", "sys/mounts/transit", type="transit")
        await server.call("POST", "transit/keys/venues", type="aes256-gcm96")
        vault = Vault(config(server))
        sealed = await vault.encrypt("venues", b"planted", "kalshi")
        assert sealed.startswith("vault:v1:")
        await server.call("POST", "transit/keys/venues/rotate")
        assert await vault.newest_version("venues") == 2
        assert (await vault.encrypt("venues", b"planted", "kalshi")).startswith("vault:v2:")
        assert await vault.decrypt("venues", sealed, "kalshi") == b"planted"
        with pytest.raises(SecretMissing, match="answers 400"):
            await vault.decrypt("venues", sealed, "polymarket")


async def test_a_venues_key_is_wrapped_inside_the_vault_and_wrapped_anew_after_a_rotation() -> None:
    async with vault_server() as server:
        await server.allow(POLICY)
        await server.call("POST", "sys/mounts/transit", type="transit")
        await server.call("POST", "transit/keys/venues", type="aes256-gcm96")
        wrapper = TransitWrapper(Vault(config(server)), "venues")
        wrapped, first = await wrapper.wrap(b"k" * 32, "venue_credentials/kalshi")
        assert first == await wrapper.newest() == "transit/venues/1"
        await server.call("POST", "transit/keys/venues/rotate")
        assert await wrapper.newest() == "transit/venues/2"
        assert await wrapper.unwrap(wrapped, first, "venue_credentials/kalshi") == b"k" * 32
        with pytest.raises(CredentialUnreadable):
            await wrapper.unwrap(wrapped, first, "venue_credentials/polymarket")
        with pytest.raises(CredentialUnreadable, match="keyring/1 is not the one that is set up"):
            await wrapper.unwrap(wrapped, "keyring/1", "venue_credentials/kalshi")
