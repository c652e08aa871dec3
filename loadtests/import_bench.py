"""Import of recorded quotes against PostgreSQL's own binary COPY of the same rows into the same table.

    python -m loadtests.import_bench FOLDER     # every *.parquet below it; default: $ODDSTREAM_REAL_DATA

For each file in turn: import it by the command's own code, write the rows that it stored to a file on the server, empty
the table, and let the server read that file back. Both sides fill the same partitions with the same indexes, at the
same size, within the same minutes. The table is then left as the second side made it, so that it grows like a real one.
Aim: the import's rate is at least half of the COPY's, in bounded memory. ``CHECK=1`` exits 1 where it is missed.
"""

import asyncio
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from oddstream_server.embedded.services import EmbeddedServices
from oddstream_server.pipeline.imports.command import import_quotes
from oddstream_server.pipeline.imports.forms import FORMS
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.migrate import upgrade_async
from oddstream_server.storage.tick_store.imports import QuoteImports

AIM_RATIO = 0.5
AIM_RSS_MIB = 1024


@dataclass
class Round:
    name: str
    rows: int
    import_seconds: float
    copy_seconds: float

    @property
    def ratio(self) -> float:
        return self.copy_seconds / self.import_seconds


async def measure(database: Database, server: "asyncpg.Connection[Any]", path: Path, markets: Path | None) -> Round:
    begun = time.perf_counter()
    report = await import_quotes(
        path,
        FORMS["polymarket_us"],
        target=QuoteImports(database),
        catalog=CatalogStore(database),
        clock=lambda: time.time_ns() // 1_000,
        markets_file=markets,
        candles=False,
    )
    import_seconds = time.perf_counter() - begun
    file = f"{await server.fetchval('SHOW data_directory')}/bench.copy"
    source = await server.fetchval("SELECT max(source_id) FROM quotes_import")
    stored = f"FROM quotes WHERE lane = 2 AND source_id = {source}"
    await server.execute(f"COPY (SELECT * {stored} ORDER BY ingest_sequence) TO '{file}' (FORMAT binary)")
    await server.execute(f"DELETE {stored}")
    # Dead rows and their index entries must be gone, or COPY would be slowed by what the import left.
    await server.execute("VACUUM quotes_import")
    begun = time.perf_counter()
    await server.execute(f"COPY quotes FROM '{file}' (FORMAT binary)")
    copy_seconds = time.perf_counter() - begun
    return Round(path.parent.name, report.rows, import_seconds, copy_seconds)


async def main() -> int:
    given = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ODDSTREAM_REAL_DATA", "../shared/data"))
    files = sorted(given.rglob("quotes/*/*.parquet"))
    if not files:
        print(f"no quotes/*/*.parquet below {given}: set ODDSTREAM_REAL_DATA or name a folder")
        return 2
    markets = next(iter(sorted(given.rglob("markets.parquet"))), None)
    root = Path(tempfile.mkdtemp(prefix="oddstream-bench-"))
    root.chmod(0o711)
    services = EmbeddedServices(root / "data", redis=False)
    urls = await services.start(lambda text: print(f"  … {text}"))
    rounds: list[Round] = []
    try:
        await upgrade_async(urls.database_url)
        database = Database(urls.database_url)
        server = await asyncpg.connect(urls.database_dsn)
        print(f"{'file':<16}{'rows':>12}{'import rows/s':>16}{'COPY rows/s':>16}{'ratio':>8}{'RSS MiB':>10}")
        for file in files:
            one = await measure(database, server, file, markets)
            rounds.append(one)
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{one.name:<16}{one.rows:>12,}{one.rows / one.import_seconds:>16,.0f}"
                f"{one.rows / one.copy_seconds:>16,.0f}{one.ratio:>8.2f}{rss:>10.0f}",
                flush=True,
            )
        await server.close()
        await database.close()
    finally:
        await services.stop(lambda text: None)
        shutil.rmtree(root, ignore_errors=True)
    rows = sum(r.rows for r in rounds)
    whole = sum(r.copy_seconds for r in rounds) / sum(r.import_seconds for r in rounds)
    median = statistics.median(r.ratio for r in rounds)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'all':<16}{rows:>12,}{'':>32}{whole:>8.2f}{rss:>10.0f}   (median of files {median:.2f})")
    missed = [
        text
        for text, met in (
            (f"import at {whole:.2f} of COPY's rate, aim {AIM_RATIO}", whole >= AIM_RATIO),
            (f"{rss:.0f} MiB resident, aim {AIM_RSS_MIB}", rss <= AIM_RSS_MIB),
        )
        if not met
    ]
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed and os.environ.get("CHECK") == "1" else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
