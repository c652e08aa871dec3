"""Halts, withdrawals and settings of strategies: what the pipeline's leader obeys.

Each change of them holds the live lane's row, as each batch of the leader does, and raises its ``controls_revision``.
A batch that finds another revision than its leader knows is refused before it decides anything: so no batch decides
against a halt whose call was answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from oddstream_server.application.ports import Controls, Fenced
from oddstream_server.domain.errors import Aborted
from oddstream_server.domain.halt import Halt, HaltScope, Reach
from oddstream_server.domain.signal import SignalEvent, content_id
from oddstream_server.domain.strategy import StrategySetting
from oddstream_server.storage.administration import audit_log
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.signals.appending import append
from oddstream_server.storage.signals.signal_log import active_events
from oddstream_server.storage.tick_store.ticks import LIVE


class SignalControls:
    """Fulfils :class:`~oddstream_server.application.ports.SignalControls` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._driver = transaction.driver

    async def lock(self) -> None:
        await self._driver.execute(
            f"UPDATE ingest_lanes SET controls_revision = controls_revision + 1 WHERE lane = {LIVE}"
        )

    async def halts_in_force(self) -> Sequence[Halt]:
        return await _halts(self._transaction, "lift_time IS NULL")

    async def get_halt(self, halt_id: str) -> Halt | None:
        found = await _halts(self._transaction, "halt_id = $1", halt_id)
        return found[0] if found else None

    async def add_halt(self, scope: HaltScope, note: str, ordered_by: str, now_us: int) -> Halt:
        seed = await self._driver.fetchval("SELECT gen_random_uuid()::text")
        halt = Halt(content_id("hlt", seed), scope, note, ordered_by, now_us)
        await self._driver.execute(
            "INSERT INTO halts (halt_id, reach, target, note, ordered_by, create_time) VALUES ($1, $2, $3, $4, $5, $6)",
            halt.halt_id,
            scope.reach.value,
            scope.target,
            note,
            ordered_by,
            now_us,
        )
        return halt

    async def lift_halt(self, halt_id: str, now_us: int) -> None:
        await self._driver.execute("UPDATE halts SET lift_time = $2 WHERE halt_id = $1", halt_id, now_us)

    async def active_signals(self) -> Sequence[SignalEvent]:
        # Sweeps append without the lane: until we commit, nothing that we see as open may end by another event.
        await audit_log.lock(self._driver)
        await self._driver.execute("SELECT 1 FROM signal_log_head FOR UPDATE")
        return await active_events(self._transaction)

    async def opportunities_of(self, signal_ids: Sequence[str]) -> Mapping[str, str]:
        rows = await self._driver.fetch(
            "SELECT signal_id, opportunity_id FROM signals WHERE signal_id = ANY($1::text[])", list(signal_ids)
        )
        return {row["signal_id"]: row["opportunity_id"] for row in rows}

    async def append(self, events: Sequence[SignalEvent]) -> Sequence[SignalEvent]:
        """:raises Aborted: the leadership changed hands meanwhile."""
        if not events:
            return ()
        # The lane is ours, and a new leader needs it before it raises the epoch: the epoch stands until we commit.
        epoch = await self._driver.fetchval("SELECT epoch FROM signal_log_head")
        try:
            return await append(self._driver, epoch, events)
        except Fenced:
            raise Aborted("the pipeline changed hands; try again", reason="CONCURRENT_CHANGE") from None

    async def strategy_setting(self, strategy_id: str) -> StrategySetting | None:
        row = await self._driver.fetchrow("SELECT * FROM strategy_settings WHERE strategy_id = $1", strategy_id)
        return None if row is None else _setting(row)

    async def put_strategy_setting(self, setting: StrategySetting) -> None:
        values = (
            setting.strategy_id,
            setting.revision,
            setting.enabled,
            orjson.dumps(dict(setting.params)).decode(),
            setting.params_revision,
            setting.update_time_us,
        )
        columns = "(strategy_id, revision, enabled, params, params_revision, update_time)"
        await self._driver.execute(
            f"INSERT INTO strategy_settings {columns} VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT (strategy_id) DO UPDATE SET revision = excluded.revision, enabled = excluded.enabled, "
            "params = excluded.params, params_revision = excluded.params_revision, update_time = excluded.update_time",
            *values,
        )
        await self._driver.execute(
            f"INSERT INTO strategy_setting_revisions {columns} VALUES ($1, $2, $3, $4, $5, $6)", *values
        )
        # What a strategy saw before it was switched off or changed is worth nothing to it afterwards.
        await self._driver.execute("DELETE FROM strategy_states WHERE strategy_id = $1", setting.strategy_id)


class ControlsReader:
    """Fulfils :class:`~oddstream_server.application.ports.ControlsReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def controls(self) -> Controls:
        async def work(transaction: Transaction) -> Controls:
            revision = await transaction.driver.fetchval(
                f"SELECT controls_revision FROM ingest_lanes WHERE lane = {LIVE}"
            )
            halts = await _halts(transaction, "lift_time IS NULL")
            settings = await transaction.driver.fetch("SELECT * FROM strategy_settings ORDER BY strategy_id")
            return Controls(revision, tuple(halts), tuple(_setting(row) for row in settings))

        return await self._database.read(work, snapshot=True)


async def _halts(transaction: Transaction, condition: str, *values: Any) -> Sequence[Halt]:
    rows = await transaction.driver.fetch(f"SELECT * FROM halts WHERE {condition} ORDER BY create_time", *values)
    return [
        Halt(
            halt_id=row["halt_id"],
            scope=HaltScope(Reach(row["reach"]), row["target"]),
            note=row["note"],
            ordered_by=row["ordered_by"],
            create_time_us=row["create_time"],
            lift_time_us=row["lift_time"],
        )
        for row in rows
    ]


def _setting(row: Any) -> StrategySetting:
    params = row["params"]
    return StrategySetting(
        strategy_id=row["strategy_id"],
        revision=row["revision"],
        enabled=row["enabled"],
        params=params if isinstance(params, dict) else orjson.loads(params),
        params_revision=row["params_revision"],
        update_time_us=row["update_time"],
    )
