"""API keys: their form, their proof, their issue, and the memory of who was let in."""

import asyncio
import string
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.application.keys.authentication import CACHE_SECONDS, Authenticator, bearer_token
from oddstream_server.application.keys.issuing import MAXIMUM_LIFE_US, first_admin_key, new_key
from oddstream_server.application.keys.key_format import KeyMode, checksum, generate, parse
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.ports import StoredKey
from oddstream_server.domain.errors import OddstreamError, Unauthenticated, Unavailable
from oddstream_server.domain.principal import Role
from tests.grpc.memory_ports import MemoryKeys

PEPPERS = Peppers({1: b"first pepper, long enough"})
NOW = 1_782_993_600_000_000


@dataclass
class Clocks:
    now_us: int = NOW
    seconds: float = 1000.0

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)
        self.seconds += seconds


@dataclass
class Gate:
    keys: MemoryKeys
    clocks: Clocks
    authenticator: Authenticator


@pytest.fixture
async def gate() -> Gate:
    keys, clocks = MemoryKeys(), Clocks()
    return Gate(keys, clocks, Authenticator(keys, PEPPERS, lambda: clocks.now_us, lambda: clocks.seconds))


def issue(gate: Gate, **more: object) -> str:
    issued = new_key(PEPPERS, owner="t", role=Role.VIEWER, now_us=gate.clocks.now_us, **more)  # type: ignore[arg-type]
    gate.keys.keys[issued.key.key_id] = issued.stored
    return issued.key.text


# --- form ---


@pytest.mark.parametrize("mode", list(KeyMode))
def test_a_generated_key_has_the_stated_form_and_parses(mode: KeyMode) -> None:
    key = generate(mode)
    prefix, kind, key_id, secret = key.text.split("_")
    assert (prefix, kind, len(key_id), len(secret)) == ("ods", mode.value, 12, 49)
    assert parse(key.text) == key
    assert key.key_id == f"key_{key_id}"
    assert key.prefix == f"ods_{mode.value}_{key_id}"


@given(st.integers(0, 71), st.sampled_from(string.ascii_letters + string.digits + "_ é"))
def test_a_changed_character_is_noticed_without_a_query(position: int, letter: str) -> None:
    text = FIXED.text
    position %= len(text)
    changed = text[:position] + letter + text[position + 1 :]
    assert (parse(changed) is None) == (changed != text)


FIXED = generate(KeyMode.LIVE)


@given(st.text(max_size=100))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert parse(text) is None


def test_a_keys_repr_shows_its_prefix_and_no_secret() -> None:
    key = generate(KeyMode.LIVE)
    secret = key.text.rpartition("_")[2]
    assert secret[:10] not in repr(key)
    assert key.prefix in repr(key)


def test_the_checksum_is_the_documented_one() -> None:
    # zlib.crc32(b"ods_live_x") = 1_246_203_436, in base 62 with 0-9A-Za-z.
    import zlib

    number = zlib.crc32(b"ods_live_x")
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    expected = "".join(alphabet[number // 62**power % 62] for power in range(5, -1, -1))
    assert checksum("ods_live_x") == expected


# --- proof ---


def test_a_new_pepper_leaves_old_keys_good_and_a_lost_one_refuses_them() -> None:
    key = generate(KeyMode.LIVE)
    proof = PEPPERS.proof(key, 1)
    both = Peppers({1: PEPPERS.by_version[1], 2: b"second pepper, long too"})
    assert both.newest == 2
    assert both.matches(key, 1, proof)
    assert not both.matches(key, 2, proof)
    assert not Peppers({2: b"second pepper, long too"}).matches(key, 1, proof)


def test_peppers_that_are_none_or_short_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Peppers({})
    with pytest.raises(ValueError, match="shorter"):
        Peppers({1: b"short"})
    assert "first" not in repr(PEPPERS)


# --- issue ---


async def test_the_first_admin_key_is_made_once() -> None:
    keys = MemoryKeys()
    first = await first_admin_key(keys, PEPPERS, NOW)
    assert first is not None
    assert keys.keys[first.key.key_id].principal.role is Role.ADMIN
    assert await first_admin_key(keys, PEPPERS, NOW) is None
    assert first.key.text.encode() not in repr(keys.keys).encode()


def test_no_key_lives_longer_than_a_year() -> None:
    for asked in (None, NOW + 10 * MAXIMUM_LIFE_US):
        issued = new_key(PEPPERS, owner="t", role=Role.VIEWER, now_us=NOW, expire_time_us=asked)
        assert issued.stored.expire_time_us == issued.stored.principal.expire_time_us == NOW + MAXIMUM_LIFE_US


# --- who is let in ---


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer  ", None),
        ("", None),
    ],
)
def test_only_a_bearer_token_counts(header: str, token: str | None) -> None:
    assert bearer_token({"authorization": header}) == token
    assert bearer_token({}) is None


async def test_a_key_is_remembered_for_less_than_five_seconds(gate: Gate) -> None:
    token = issue(gate)
    await gate.authenticator.authenticate(token)
    gate.clocks.advance(CACHE_SECONDS - 0.1)
    await gate.authenticator.authenticate(token)
    assert gate.keys.reads == 1
    gate.clocks.advance(0.1)
    assert gate.authenticator.cached(token) is None
    await gate.authenticator.authenticate(token)
    assert gate.keys.reads == 2


async def test_a_revocation_that_nobody_announced_holds_after_five_seconds(gate: Gate) -> None:
    token = issue(gate)
    principal = await gate.authenticator.authenticate(token)
    await gate.keys.revoke(principal.subject, gate.clocks.now_us)
    gate.clocks.advance(CACHE_SECONDS)
    with pytest.raises(Unauthenticated):
        await gate.authenticator.authenticate(token)


async def test_a_key_that_expires_while_it_is_remembered_is_refused_at_once(gate: Gate) -> None:
    token = issue(gate, expire_time_us=gate.clocks.now_us + 1_000_000)
    await gate.authenticator.authenticate(token)
    gate.clocks.advance(1.0)
    with pytest.raises(Unauthenticated):
        await gate.authenticator.authenticate(token)


async def test_without_the_key_store_remembered_keys_pass_until_their_five_seconds_run_out(gate: Gate) -> None:
    token = issue(gate)
    await gate.authenticator.authenticate(token)
    gate.keys.away = True
    gate.clocks.advance(CACHE_SECONDS - 0.1)
    await gate.authenticator.authenticate(token)
    gate.clocks.advance(0.1)
    with pytest.raises(Unavailable):
        await gate.authenticator.authenticate(token)


async def test_a_change_that_is_announced_during_a_read_is_not_overlooked(gate: Gate) -> None:
    token = issue(gate)
    read = gate.keys.find
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(key_id: str) -> object:
        found = await read(key_id)
        reached.set()
        await go.wait()
        return found

    gate.keys.find = slow  # type: ignore[assignment, method-assign]  # a read that started before the change
    call = asyncio.create_task(gate.authenticator.authenticate(token))
    await reached.wait()
    gate.authenticator.forget()
    go.set()
    await call
    assert gate.authenticator.cached(token) is None


async def test_calls_at_the_same_time_share_one_read_and_a_cancelled_one_harms_none(gate: Gate) -> None:
    token = issue(gate)
    calls = [asyncio.create_task(gate.authenticator.authenticate(token)) for _ in range(10)]
    await asyncio.sleep(0)
    calls[0].cancel()
    principals = await asyncio.gather(*calls[1:])
    assert len(set(principals)) == 1
    assert gate.keys.reads == 1


async def test_a_call_that_joined_a_read_which_failed_has_a_read_of_its_own(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issue(gate)
    find, reads, fail = gate.keys.find, 0, asyncio.Event()

    async def find_after_one_failure(key_id: str) -> StoredKey | None:
        nonlocal reads
        reads += 1
        if reads == 1:
            await fail.wait()
            raise Unavailable("the database is away; try again")
        return await find(key_id)

    monkeypatch.setattr(gate.keys, "find", find_after_one_failure)
    first = asyncio.create_task(gate.authenticator.authenticate(token))
    await asyncio.sleep(0)
    late = [asyncio.create_task(gate.authenticator.authenticate(token)) for _ in range(5)]
    await asyncio.sleep(0)
    fail.set()
    with pytest.raises(Unavailable):
        await first
    assert len({principal.subject for principal in await asyncio.gather(*late)}) == 1
    assert reads == 2, "they share the second one too"


async def test_unknown_and_wrong_keys_take_the_same_proof_as_good_ones(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs = 0
    matches = Peppers.matches

    def counted(self: Peppers, *arguments: object) -> bool:
        nonlocal proofs
        proofs += 1
        return matches(self, *arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(Peppers, "matches", counted)
    good = issue(gate)
    expired = issue(gate, expire_time_us=gate.clocks.now_us)
    unknown = generate(KeyMode.LIVE).text
    body = good[:-7] + ("A" if good[-7] != "A" else "B")
    for token in (unknown, body + checksum(body), expired):
        with pytest.raises(Unauthenticated):
            await gate.authenticator.authenticate(token)
    assert proofs == 6  # each of them is held against the present and the outgoing secret


async def test_last_used_times_are_written_together_at_most_once_a_minute(gate: Gate) -> None:
    tokens = [issue(gate) for _ in range(3)]
    running = asyncio.create_task(gate.authenticator.run())
    try:

        async def turn() -> None:
            gate.authenticator.forget()  # wakes the loop
            for _ in range(10):
                await asyncio.sleep(0)

        for token in tokens:
            await gate.authenticator.authenticate(token)
        await turn()
        assert len(gate.keys.touched) == 3
        await gate.authenticator.authenticate(tokens[0])
        await turn()
        assert len(gate.keys.touched) == 3
        gate.clocks.advance(60)
        await turn()
        assert len(gate.keys.touched) == 4
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_stream_hears_of_a_revocation_and_not_of_a_key_store_that_is_away(gate: Gate) -> None:
    token = issue(gate)
    principal = await gate.authenticator.authenticate(token)
    heard: asyncio.Queue[OddstreamError] = asyncio.Queue()
    running = asyncio.create_task(gate.authenticator.run())
    try:
        with gate.authenticator.watching(principal, heard.put_nowait):
            gate.keys.away = True
            gate.authenticator.forget()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.3):
                    await heard.get()
            gate.keys.away = False
            gate.keys.keys[principal.subject] = replace(gate.keys.keys[principal.subject], revoke_time_us=1)
            gate.authenticator.forget()
            async with asyncio.timeout(4):
                assert (await heard.get()).reason == "CREDENTIAL_REVOKED"
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_principals_key_can_be_checked_again(gate: Gate) -> None:
    principal = await gate.authenticator.authenticate(issue(gate))
    assert await gate.authenticator.still_valid(principal)
    await gate.keys.revoke(principal.subject, gate.clocks.now_us)
    assert not await gate.authenticator.still_valid(principal)
    gate.keys.away = True
    with pytest.raises(Unavailable):
        await gate.authenticator.still_valid(principal)
