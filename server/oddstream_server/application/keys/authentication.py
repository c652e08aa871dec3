"""From a bearer token to a principal, with a memory of at most five seconds.

What is refused is refused in one way: an unknown, a wrong, a revoked and an expired key get the same reason and text,
and take the same work. Every process hears of a changed key by a wake-up; one that misses it goes on for five seconds
at most. When the key store is away, keys that were checked within the last five seconds still pass; after that calls
fail with UNAVAILABLE rather than unchecked.
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from oddstream_server.application.keys.key_format import KeyText, parse
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.ports import Clock, KeyStore, StoredKey
from oddstream_server.domain.errors import OddstreamError, Unauthenticated, Unavailable
from oddstream_server.domain.principal import Principal, Role, Scopes

log = structlog.get_logger()

CACHE_SECONDS = 5.0
RECHECK_SECONDS = 2.0
"""How often the keys of open streams are read again. With the reading itself it stays below the five seconds."""
READ_SECONDS = 3.0
"""A restart of the database is waited out by the store itself; this is for one that hangs."""
TOUCH_SECONDS = 60.0
LATELY_SECONDS = 900.0
_MAXIMUM_CACHED = 10_000
_READS_AT_A_TIME = 32
_DUMMY_PROOF = bytes(32)
_RETURN_US = 100_000


def bearer_token(metadata: Mapping[str, str]) -> str | None:
    """The token of ``authorization: Bearer <token>``; None where there is none of that form."""
    given = metadata.get("authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    return token.strip() or None if scheme == "Bearer" or scheme.lower() == "bearer" else None


def missing_key() -> Unauthenticated:
    return Unauthenticated(
        'this call needs a key: send the metadata "authorization: Bearer <API key>"', reason="API_KEY_MISSING"
    )


def invalid_key() -> Unauthenticated:
    return Unauthenticated("the API key is not valid; ask an admin for a new one", reason="API_KEY_INVALID")


@dataclass(slots=True)
class _Checked:
    principal: Principal
    key_id: str | None
    """None for an access token."""
    checked_at: float


OnEnd = Callable[[OddstreamError], None]


class TokenVerifier(Protocol):
    """Access tokens of somebody else's making."""

    def recognises(self, token: str) -> bool:
        """True for what has the form of one, good or bad."""
        ...

    async def verify(self, token: str) -> Principal:
        """:raises Unauthenticated: it is not good.
        :raises PermissionDenied: it is, and its holder has no role here.
        :raises Unavailable: it can't be checked now.
        """
        ...


class Authenticator:
    """Recognises callers by their API keys. One a process; ``run`` has to be running for streams to be re-checked.

    :param store: where keys are kept.
    :param peppers: for the keys' hashes.
    :param now: wall clock in microseconds, for expiry.
    :param monotonic: seconds, for the ages of what is remembered.
    :param tokens: takes access tokens too; None takes keys alone.
    """

    def __init__(
        self,
        store: KeyStore,
        peppers: Peppers,
        now: Clock,
        monotonic: Callable[[], float] | None = None,
        tokens: TokenVerifier | None = None,
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._peppers = peppers
        self._now = now
        self._monotonic = monotonic or asyncio.get_running_loop().time
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()
        self._lately_good: OrderedDict[bytes, float] = OrderedDict()
        self._generation = 0
        self._reading: dict[str, asyncio.Task[StoredKey | None]] = {}
        self._watched: dict[str, dict[OnEnd, Principal]] = {}
        """By key id: what ends each of its open streams, and as whom it was opened."""
        self._expiring: dict[OnEnd, Principal] = {}
        """Streams of callers who came without an API key; all that can end is their token or certificate."""
        self._wake = asyncio.Event()
        self._used: set[str] = set()
        self._touched_at = -math.inf

    async def authenticate(self, token: str | None) -> Principal:
        """The caller of a token.

        :raises Unauthenticated: there is no token, or it is not good.
        :raises Unavailable: the key store is away and the token was not checked within the last five seconds.
        """
        if not token:
            raise missing_key()
        known = self.cached(token)
        if known is not None:
            return known
        try:
            return await self._check(token)
        except Unauthenticated:
            self._lately_good.pop(_digest(token), None)
            raise

    async def _check(self, token: str) -> Principal:
        key = parse(token)
        if key is None:
            return await self._by_access_token(token)
        generation = self._generation
        stored = await self._read(key.key_id)
        principal = self._verify(key, stored)
        if generation == self._generation:  # else a change was announced while we were reading
            self._remember(token, principal, key.key_id)
        self._used.add(key.key_id)
        return principal

    async def _by_access_token(self, token: str) -> Principal:
        if self._tokens is None or not self._tokens.recognises(token):
            raise invalid_key()
        principal = await self._tokens.verify(token)
        self._remember(token, principal, None)
        return principal

    def cached(self, token: str | None) -> Principal | None:
        """The caller, where the token was found good within the last five seconds and has not expired since."""
        if not token:
            return None
        digest = _digest(token)
        entry = self._checked.get(digest)
        if entry is None:
            return None
        if self._monotonic() - entry.checked_at >= CACHE_SECONDS or self._expired(entry.principal):
            del self._checked[digest]
            return None
        if entry.key_id is not None:
            self._used.add(entry.key_id)
        return entry.principal

    def lately_good(self, token: str | None) -> bool:
        """True where the token was found good within a quarter of an hour and not bad since. That is no proof of who
        calls; it tells a customer from a stranger at the same address."""
        seen_at = self._lately_good.get(_digest(token)) if token else None
        return seen_at is not None and self._monotonic() - seen_at < LATELY_SECONDS

    async def still_valid(self, principal: Principal) -> bool:
        """Read the principal's key again.

        :raises Unavailable: the key store is away.
        """
        if principal.key_id is None:
            return not self._expired(principal)
        stored = await self._read(principal.key_id)
        return stored is not None and not self._revoked_or_expired(stored)

    def forget(self) -> None:
        """Keys have changed (or may have): remember nothing, and re-check the keys of open streams now."""
        self._generation += 1
        self._checked.clear()
        self._reading.clear()
        self._wake.set()

    @contextmanager
    def watching(self, principal: Principal, on_end: OnEnd) -> Iterator[None]:
        """While the block lasts, call ``on_end`` once when the principal's key is found revoked or expired.

        While the key store is away nobody is cut: nothing can be revoked in it, and nothing new can be read either.
        """
        key_id = principal.key_id
        if key_id is None:
            self._expiring[on_end] = principal
            try:
                yield
            finally:
                self._expiring.pop(on_end, None)
            return
        self._watched.setdefault(key_id, {})[on_end] = principal
        try:
            yield
        finally:
            streams = self._watched.get(key_id, {})
            streams.pop(on_end, None)
            if not streams:
                self._watched.pop(key_id, None)

    async def run(self) -> None:
        """Re-check the keys of open streams and write last-used times, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._recheck()
            await self._touch()

    async def _recheck(self) -> None:
        for on_end, principal in list(self._expiring.items()):
            if self._expired(principal):
                del self._expiring[on_end]
                on_end(_ended())
        key_ids = list(self._watched)
        for first in range(0, len(key_ids), _READS_AT_A_TIME):
            await asyncio.gather(*(self._recheck_key(key_id) for key_id in key_ids[first : first + _READS_AT_A_TIME]))

    async def _recheck_key(self, key_id: str) -> None:
        try:
            stored = await self._read(key_id)
        except Unavailable:
            return
        except Exception:
            log.exception("the key of open streams could not be read again", key_id=key_id)
            return
        streams = self._watched.get(key_id, {})
        over = stored is None or self._revoked_or_expired(stored)
        for on_end, principal in list(streams.items()):
            if over or self._replaced(principal, stored):
                streams.pop(on_end, None)
                on_end(_ended())
            elif stored is not None and _rights(principal) != _rights(stored.principal):
                streams.pop(on_end, None)
                on_end(Unavailable("what the key may do was changed; come again", retry_after_us=_RETURN_US))
        if not streams:
            self._watched.pop(key_id, None)

    async def _touch(self) -> None:
        if not self._used or self._monotonic() - self._touched_at < TOUCH_SECONDS:
            return
        used, self._used = self._used, set()
        self._touched_at = self._monotonic()
        try:
            await self._store.touch(sorted(used), self._now())
        except Unavailable:
            self._used |= used
        except Exception:
            log.exception("last-used times of keys were not written", keys=len(used))

    async def _read(self, key_id: str) -> StoredKey | None:
        """One query, however many calls wait for it.

        A query that began before the call may be at the end of its patience with a database that is coming back: who
        joined one that failed asks once more.
        """
        joined = key_id in self._reading
        try:
            return await self._shared_read(key_id)
        except Unavailable:
            if not joined:
                raise
        return await self._shared_read(key_id)

    async def _shared_read(self, key_id: str) -> StoredKey | None:
        task = self._reading.get(key_id)
        if task is None:
            task = self._reading[key_id] = asyncio.create_task(self._store.find(key_id))
            task.add_done_callback(lambda done: self._read_done(key_id, done))
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await asyncio.shield(task)  # one caller's cancellation is not the others'
        except TimeoutError:
            raise Unavailable("keys can't be checked now; come again") from None

    def _read_done(self, key_id: str, task: "asyncio.Task[StoredKey | None]") -> None:
        if self._reading.get(key_id) is task:
            del self._reading[key_id]
        if not task.cancelled():
            task.exception()  # its waiters may all have been cancelled

    def _verify(self, key: KeyText, stored: StoredKey | None) -> Principal:
        version = stored.pepper_version if stored else self._peppers.newest
        matches = self._peppers.matches(key, version, stored.secret_hmac if stored else _DUMMY_PROOF)
        # The secret before a rotation is compared for every key, with one or without: all take the same work.
        old_version = stored.previous_pepper_version if stored else None
        old_proof = stored.previous_secret_hmac if stored else None
        matches_old = self._peppers.matches(key, old_version or self._peppers.newest, old_proof or _DUMMY_PROOF)
        if stored is None or not (matches or matches_old) or self._revoked_or_expired(stored):
            raise invalid_key()
        if matches:
            return replace(stored.principal, credential=_credential(stored.secret_hmac))
        overlap_end_us = stored.overlap_end_time_us or 0
        if overlap_end_us <= self._now():
            raise invalid_key()
        expire_us = stored.expire_time_us
        until_us = overlap_end_us if expire_us is None else min(overlap_end_us, expire_us)
        return replace(stored.principal, expire_time_us=until_us, credential=_credential(old_proof or b""))

    def _revoked_or_expired(self, stored: StoredKey) -> bool:
        now_us = self._now()
        revoked = stored.revoke_time_us is not None and stored.revoke_time_us <= now_us
        return revoked or (stored.expire_time_us is not None and stored.expire_time_us <= now_us)

    def _replaced(self, principal: Principal, stored: StoredKey | None) -> bool:
        """True where the secret that proved the principal is good no more, though its key is."""
        if stored is None or not principal.credential or principal.credential == _credential(stored.secret_hmac):
            return False
        overlap_end_us = stored.overlap_end_time_us or 0
        outgoing = principal.credential == _credential(stored.previous_secret_hmac or b"")
        return not outgoing or overlap_end_us <= self._now()

    def _expired(self, principal: Principal) -> bool:
        return principal.expire_time_us is not None and principal.expire_time_us <= self._now()

    def _remember(self, token: str, principal: Principal, key_id: str | None) -> None:
        digest = _digest(token)
        self._lately_good[digest] = self._monotonic()
        self._lately_good.move_to_end(digest)
        if len(self._lately_good) > _MAXIMUM_CACHED:
            self._lately_good.popitem(last=False)
        self._checked[digest] = _Checked(principal, key_id, self._monotonic())
        if len(self._checked) > _MAXIMUM_CACHED:
            self._checked.popitem(last=False)


def _rights(principal: Principal) -> tuple[Role, Scopes]:
    return principal.role, principal.scopes


def _ended() -> Unauthenticated:
    return Unauthenticated("the credential of this stream was revoked or has expired", reason="CREDENTIAL_REVOKED")


def _digest(token: str) -> bytes:
    """What the memory is keyed by, so that no key lies in it. At each call, hence not OpenSSL's slower SHA-256."""
    return hashlib.blake2b(token.encode(), digest_size=32).digest()


def _credential(proof: bytes) -> str:
    return hashlib.sha256(proof).hexdigest()[:16]
