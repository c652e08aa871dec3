"""From venue items to signals: ingest, store, run the strategies, append what they say; one leader at a time."""
