"""API keys: their form, their proof, how they are issued and how callers are recognised by them."""
