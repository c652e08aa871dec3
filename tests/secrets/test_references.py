from pathlib import Path

import pytest

from oddstream_server.application.secrets.provider import Secret, SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.secrets.plain import EnvironmentSecrets, FileSecrets


def reference(text: str) -> SecretReference:
    return SecretReference.parse(text)


@pytest.mark.parametrize("text", ["", "vault", "vault:", ":path", "#field"])
def test_a_reference_names_store_and_path(text: str) -> None:
    with pytest.raises(ValueError, match="<store>:<path>"):
        reference(text)


def test_a_reference_reads_as_it_was_written() -> None:
    assert reference("vault:secret/a/b#password") == SecretReference("vault", "secret/a/b", "password")
    assert str(reference("vault:secret/a/b#password")) == "vault:secret/a/b#password"
    assert reference("aws:arn:aws:secretsmanager:eu:1:secret:a").path == "arn:aws:secretsmanager:eu:1:secret:a"


def test_json_is_fields_and_other_text_is_one() -> None:
    assert Secret.from_text('{"username": "u", "port": 5432}').fields == {"username": "u", "port": "5432"}
    assert Secret.from_text("{no json}\n").fields == {"value": "{no json}"}
    assert Secret.from_text(" spaces stay \n").fields == {"value": " spaces stay "}


def test_the_field_is_the_one_named_or_the_one_expected_or_the_whole() -> None:
    secret = Secret.from_text('{"password": "one", "other": "two"}')
    assert secret.get(reference("file:/x#other"), "password") == "two"
    assert secret.get(reference("file:/x"), "password") == "one"
    assert Secret.from_text("three").get(reference("file:/x"), "password") == "three"
    with pytest.raises(SecretMissing, match="file:/x#nothing: has no field nothing"):
        secret.get(reference("file:/x#nothing"), "password")


def test_nothing_shows_in_a_repr() -> None:
    assert "planted" not in repr(Secret.from_text("planted"))
    assert "planted" not in repr(EnvironmentSecrets({"A": "planted"}))


async def test_a_file_that_is_replaced_is_a_secret_that_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "password"
    files, wanted = FileSecrets(), reference(f"file:{path}")
    with pytest.raises(SecretStoreAway, match="not there"):
        await files.fetch(wanted)
    path.write_text("first\n")
    assert (await files.fetch(wanted)).get(wanted) == "first"
    path.write_text("second\n")
    assert (await files.fetch(wanted)).get(wanted) == "second"
    path.write_text("\n")
    with pytest.raises(SecretStoreAway, match="empty"):
        await files.fetch(wanted)
    path.write_bytes(b"\xff\xfe\x00planted")
    with pytest.raises(SecretMissing, match="not UTF-8") as caught:
        await files.fetch(wanted)
    assert "planted" not in str(caught.value)


async def test_an_unset_variable_is_named() -> None:
    store = EnvironmentSecrets({"SET": "value", "EMPTY": ""})
    assert (await store.fetch(reference("env:SET"))).fields == {"value": "value"}
    for name in ("EMPTY", "ABSENT"):
        with pytest.raises(SecretMissing, match=f"env:{name}: the variable is not set"):
            await store.fetch(reference(f"env:{name}"))
