"""What the venues list, and what is known of it at which time.

catalog.py       events, markets, rules, settlements, links: kept, listed, found
documents.py     catalog entries as JSON and back
held_markets.py  markets decoded once, while their rows stay the same
link_records.py  links between markets and their reviews
"""
