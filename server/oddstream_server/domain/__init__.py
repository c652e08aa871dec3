"""The field's nouns and rules: markets, quotes, signals, fees, money, errors. Standard library only.

Units everywhere in this package: prices, sizes and money are integer micros (1 USD = 1_000_000; one contract =
1_000_000 size micros); an instant is an integer count of microseconds since the Unix epoch in UTC and its name ends
in ``_us``; a span is an integer count of microseconds and its name ends in ``_us`` too. Absent is ``None``, never 0.
"""
