"""Quotes and trades.

ticks.py       stored once, listed, replayed
tick_names.py  the short numbers of markets and sources in the tick tables
candles.py     the aggregate that stays right under late data
imports.py     quotes from files by binary COPY, resumable
"""
