"""Secrets as they were last fetched, so that a store that is away doesn't take the server with it.

A secret without a lease is fetched each time it is asked for: that is at each new connection, so that a change is seen
by the next one. One with a lease is fetched again after half of its time. While a store is away what is held is handed
out, which is said in the log, in a metric and in the state; a store that failed is left alone for a moment.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from oddstream_server.application.secrets.provider import (
    Secret,
    SecretMissing,
    SecretProvider,
    SecretReference,
    SecretStoreAway,
)

log = structlog.get_logger()

PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class HeldSecret:
    secret: Secret
    fetched_at: float
    """On the monotonic clock, as the next."""
    expire_at: float | None
    """When its lease ends; None where it has none."""


@dataclass(slots=True)
class _Store:
    provider: SecretProvider
    away_since: float | None = None
    ask_again_at: float = 0.0


class HeldSecrets:
    """One a process.

    :param providers: by the name that references begin with.
    """

    def __init__(
        self,
        providers: Mapping[str, SecretProvider],
        registry: CollectorRegistry,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stores = {name: _Store(provider) for name, provider in providers.items()}
        self._monotonic = monotonic
        self._held: dict[SecretReference, HeldSecret] = {}
        self._fetching: dict[SecretReference, asyncio.Task[HeldSecret]] = {}
        self._up = Gauge(
            "oddstream_secret_store_up", "0 while a store of secrets is away.", ["store"], registry=registry
        )
        self._fetches = Counter(
            "oddstream_secret_fetches",
            "Secrets asked for, by what came of it.",
            ["store", "outcome"],
            registry=registry,
        )
        for name in self._stores:
            self._up.labels(name).set(1)
            for outcome in ("fetched", "held", "failed"):
                self._fetches.labels(name, outcome)

    async def get(self, reference: SecretReference) -> HeldSecret:
        """The newest that can be had.

        :raises SecretStoreAway: the store is away and nothing good is held.
        :raises SecretMissing: there is no such secret or store.
        """
        store = self._stores.get(reference.store)
        if store is None:
            known = ", ".join(sorted(self._stores))
            raise SecretMissing(f"{reference}: no store {reference.store} is set up; there are {known}")
        held = self._held.get(reference)
        now = self._monotonic()
        if held is not None and held.expire_at is not None and now < (held.fetched_at + held.expire_at) / 2:
            return held
        if held is not None and now < store.ask_again_at and self._good(held):
            self._fetches.labels(reference.store, "held").inc()
            return held
        task = self._fetching.get(reference)
        if task is None:  # one request to the store, however many connections wait for it
            task = self._fetching[reference] = asyncio.create_task(self._fetch(store, reference))
            task.add_done_callback(lambda done: self._fetched(reference, done))
        return await asyncio.shield(task)

    def refused(self, reference: SecretReference) -> None:
        """What was handed out didn't work: ask the store next time, whatever is held."""
        held = self._held.get(reference)
        if held is not None and held.expire_at is not None:
            self._held[reference] = HeldSecret(held.secret, held.fetched_at, held.fetched_at)
        store = self._stores.get(reference.store)
        if store is not None:
            store.ask_again_at = 0.0

    def state(self) -> dict[str, dict[str, object]]:
        """Each store for the operator: up or away, and for how long what is held is all there is."""
        now = self._monotonic()
        return {
            name: {
                "up": store.away_since is None,
                **({} if store.away_since is None else {"away_seconds": round(now - store.away_since, 1)}),
            }
            for name, store in self._stores.items()
        }

    async def _fetch(self, store: _Store, reference: SecretReference) -> HeldSecret:
        try:
            secret = await store.provider.fetch(reference)
        except SecretStoreAway as error:
            self._went_away(store, reference, error)
            held = self._held.get(reference)
            if held is None or not self._good(held):
                self._fetches.labels(reference.store, "failed").inc()
                raise
            self._fetches.labels(reference.store, "held").inc()
            return held
        now = self._monotonic()
        if store.away_since is not None:
            log.info(
                "the store of secrets is back", store=reference.store, away_seconds=round(now - store.away_since, 1)
            )
            store.away_since = None
            self._up.labels(reference.store).set(1)
        self._fetches.labels(reference.store, "fetched").inc()
        expire_at = None if secret.lease_seconds is None else now + secret.lease_seconds
        held = self._held[reference] = HeldSecret(secret, now, expire_at)
        return held

    def _went_away(self, store: _Store, reference: SecretReference, error: SecretStoreAway) -> None:
        now = self._monotonic()
        store.ask_again_at = now + PAUSE_SECONDS
        if store.away_since is None:
            store.away_since = now
            self._up.labels(reference.store).set(0)
            log.warning(
                "the store of secrets is away; going on with what is held", store=reference.store, why=str(error)
            )

    def _good(self, held: HeldSecret) -> bool:
        return held.expire_at is None or self._monotonic() < held.expire_at

    def _fetched(self, reference: SecretReference, done: "asyncio.Task[HeldSecret]") -> None:
        self._fetching.pop(reference, None)
        if not done.cancelled():
            done.exception()  # its waiters may all have been cancelled
