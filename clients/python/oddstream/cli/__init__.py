"""The ``oddstream`` command; it needs the extra ``oddstream[cli]``.

Exit codes: 0 done, 1 a call failed, 2 the command line is wrong, 130 ended by Ctrl-C, 143 ended by SIGTERM. A reader of
the pipe that goes away ends the command with 0.
"""

import os
import signal
import sys
from typing import NoReturn

TERMINATED = 143


def main() -> NoReturn:
    """Run the command with the arguments of the process, and exit."""
    # gRPC's own log lines would tear the live table; what matters of them reaches the user as a failed call.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from oddstream.cli.app import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("rich", "typer"):
            raise
        print("The command needs two more packages: pip install 'oddstream[cli]'", file=sys.stderr)
        sys.exit(1)
    signal.signal(signal.SIGTERM, _terminate)
    app()
    sys.exit(0)


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(TERMINATED)
