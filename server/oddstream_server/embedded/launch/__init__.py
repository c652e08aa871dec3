"""How a program of a wheel becomes a child of ours: which copy, as whom, where, and how it is ended."""
