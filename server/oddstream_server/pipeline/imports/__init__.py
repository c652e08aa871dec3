"""Quotes from files: named forms, read in bounded batches, stored once however often a file comes."""
