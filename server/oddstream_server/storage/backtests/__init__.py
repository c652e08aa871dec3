"""Backtests in PostgreSQL: runs and their results, the work of their jobs, and recorded rows as columns.

runs.py       what the service does with runs
work.py       what workers do with runs; every write is fenced by its attempt
shards.py     the parts of a sweep
changes.py    runs made, cancelled and deleted within a change
documents.py  specs, results and progress as JSON and back
jobs.py       the job queue's own SQL function, called in our transactions
columns.py    rows by binary COPY to integer columns
archive.py    closed days in Parquet
recorded.py   both as one
"""
