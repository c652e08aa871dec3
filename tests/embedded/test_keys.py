"""Keys are made once, for a new database only, and nobody else can read them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from oddstream_server.embedded.errors import KeysDamaged, KeysExposed, KeysLost
from oddstream_server.embedded.keys import load_or_make_keys


def test_a_new_database_gets_two_keys_of_its_own_with_mode_0600(tmp_path: Path) -> None:
    ring = load_or_make_keys(tmp_path / "keys", database_is_new=True)
    other = load_or_make_keys(tmp_path / "other", database_is_new=True)
    keys = [key for made in (ring, other) for key in (*made.peppers.values(), *made.data_keys.values())]
    assert len(set(keys)) == 4
    assert all(len(key) == 32 for key in keys)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {
        "pepper.1": 0o600,
        "data_key.1": 0o600,
    }


def test_the_same_keys_are_read_again(tmp_path: Path) -> None:
    made = load_or_make_keys(tmp_path, database_is_new=True)
    assert load_or_make_keys(tmp_path, database_is_new=False) == made
    assert load_or_make_keys(tmp_path, database_is_new=True) == made


def test_a_start_that_was_killed_between_the_two_keys_makes_the_other(tmp_path: Path) -> None:
    made = load_or_make_keys(tmp_path, database_is_new=True)
    (tmp_path / "data_key.1").unlink()
    again = load_or_make_keys(tmp_path, database_is_new=True)
    assert again.peppers == made.peppers
    assert again.data_keys != made.data_keys


@pytest.mark.parametrize("name", ["pepper.1", "data_key.1"])
def test_an_existing_database_never_gets_new_keys(tmp_path: Path, name: str) -> None:
    load_or_make_keys(tmp_path, database_is_new=True)
    (tmp_path / name).unlink()
    with pytest.raises(KeysLost) as refusal:
        load_or_make_keys(tmp_path, database_is_new=False)
    assert refusal.value.missing == (name,)
    assert not (tmp_path / name).exists()


def test_a_rotation_adds_a_version_and_an_older_one_may_not_go_missing(tmp_path: Path) -> None:
    first = load_or_make_keys(tmp_path, database_is_new=True)
    second = tmp_path / "pepper.2"
    second.write_text("ab" * 32)
    second.chmod(0o600)
    ring = load_or_make_keys(tmp_path, database_is_new=False)
    assert ring.pepper_version == 2
    assert ring.peppers == {1: first.peppers[1], 2: bytes.fromhex("ab" * 32)}
    (tmp_path / "pepper.1").unlink()
    with pytest.raises(KeysLost, match=r"pepper\.1"):
        load_or_make_keys(tmp_path, database_is_new=False)


def test_a_key_that_others_can_read_is_refused_with_the_command_that_closes_it(tmp_path: Path) -> None:
    load_or_make_keys(tmp_path, database_is_new=True)
    (tmp_path / "pepper.1").chmod(0o640)
    with pytest.raises(KeysExposed, match=f"chmod 600 {tmp_path}/pepper.1"):
        load_or_make_keys(tmp_path, database_is_new=False)


@pytest.mark.parametrize("content", ["", "abc", "g" * 64, "ab" * 33])
def test_a_damaged_key_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    load_or_make_keys(tmp_path, database_is_new=True)
    (tmp_path / "data_key.1").write_text(content)
    with pytest.raises(KeysDamaged) as refusal:
        load_or_make_keys(tmp_path, database_is_new=False)
    assert not content or content not in str(refusal.value)


def test_a_keyring_never_shows_its_keys(tmp_path: Path) -> None:
    ring = load_or_make_keys(tmp_path, database_is_new=True)
    assert ring.peppers[1].hex() not in repr(ring)
    assert repr(ring.peppers[1]) not in repr(ring)
