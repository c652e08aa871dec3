"""Strategy kernels: one file a strategy in ``kinds``, one registry, and the tracker that turns what kernels say into
signals.

Everything here is pure: integers in, integers out, time from the row. A kernel is written in the part of Python that
a compiler of numeric code takes unchanged.
"""
