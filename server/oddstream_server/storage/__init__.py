"""PostgreSQL: the only package, with ``migrations/``, that knows SQLAlchemy and asyncpg.

database.py      the pool, and the only two ways to a connection: ``transaction()`` and ``reading()``
tables.py        the columns that queries name; the tables themselves are made by ``migrations/``
migrate.py       brings a database to this release's schema
partitions.py    months and log stretches: made ahead and on demand, dropped when they are old
catalog.py       events, markets, rules, settlements, links
documents.py     catalog entries as JSON and back
ticks.py         quotes and trades: stored once, listed, replayed
tick_names.py    the short numbers of markets and sources in the tick tables
candles.py       the aggregate that stays right under late data
pipeline_store.py  the leader's one transaction, its lease, runs, feed states, quarantine
signal_log.py    the log: append, read, list, trim
imports.py       quotes from files by binary COPY, resumable
keys.py          API keys
wake_ups.py      the listener

Instants are int microseconds on this side and ``timestamptz`` on the other; the driver's codec converts, exactly.
"""
