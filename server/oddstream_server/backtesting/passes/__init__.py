"""The first half of a run, on the rows of one shard: intents from strategies, offers from the book."""
