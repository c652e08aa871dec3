"""``make bench-stream``: this project's stream beside a naive grpc.aio server and ``websockets``, interleaved.

Prints ratios, with absolute values beside; aims that are missed come last. ``QUICK=1`` is the short form (1,000
subscribers alone), ``CHECK=1`` exits with 1 where an aim is missed. Parts by name: ``python -m loadtests.stream wire``,
``chain``.

"A core" is what a second of the server's CPU time delivers, so that other work on the machine doesn't count.
"""

import contextlib
import os
import sys

from loadtests.stream import chain, wire


def main() -> None:
    parts = sys.argv[1:] or ["wire", "chain"]
    quick = os.environ.get("QUICK") == "1"
    with contextlib.suppress(OSError):
        os.nice(-10)  # other work on the machine disturbs less; only the superuser may
    missed: list[str] = []
    if "wire" in parts:
        missed += wire.run(quick=quick)
    if "chain" in parts:
        missed += chain.run(quick=quick)
    for aim in missed:
        print(f"missed: {aim}", file=sys.stderr)
    if missed and os.environ.get("CHECK") == "1":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
