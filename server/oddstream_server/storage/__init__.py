"""PostgreSQL: the only package, with ``migrations/``, that knows SQLAlchemy and asyncpg.

database.py        the pool, and the only two ways to a connection: ``transaction()`` and reads
connector.py       how a connection is made: logins fetched anew, TLS
wake_ups.py        the listener
tables.py          the columns that queries name; the tables themselves are made by ``migrations/``
migrate.py         brings a database to this release's schema
partitions.py      months of ticks and stretches of the log: made ahead and on demand, dropped when they are old
markets/           events, markets, rules, settlements, links
tick_store/        quotes and trades: stored once, listed, replayed, imported
pipeline_store.py  the leader's one transaction, its lease, runs, feed states, quarantine
signal_log.py      the log: append, read, list, trim
track_record/      what became of signals and of reported fills
administration/    what operators change, each with its row of the audit log
backtests/         runs, their jobs and results
fitted.py          objects fitted to the past
keys.py            API keys
venue_credentials.py  the venues' keys, sealed

Instants are int microseconds on this side and ``timestamptz`` on the other; the driver's codec converts, exactly.
"""
