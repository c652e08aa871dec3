"""``python -m loadtests.stream [subscribers …]``: server on one core, client on the other, interleaved rounds."""

import json
import os
import statistics
import subprocess
import sys

from loadtests.stream.servers import METHOD, SERVICE

_ROUNDS = 3
_WARM_UP_S = 2.0
_SECONDS = 4.0


def measure(mode: str, subscribers: int, events_per_s: float) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, "-m", "loadtests.stream.servers", mode, str(events_per_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdin is not None
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        connections = max(1, subscribers // 100)
        arguments = [port, f"/{SERVICE}/{METHOD}", str(subscribers), str(connections), str(_WARM_UP_S), str(_SECONDS)]
        client = subprocess.Popen(
            [sys.executable, "-m", "loadtests.stream.raw_client", *arguments], stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(client.pid, {1})
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        server.stdin.write("go\n")
        server.stdin.flush()
        memory_kib = float(server.stdout.readline().split()[1])
        result: dict[str, float] = json.loads(client.stdout.readline())
        client.wait()
    finally:
        server.kill()
        server.wait()
    return {**result, "kib_per_subscriber": memory_kib / subscribers}


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(r[name] for r in results) for name in results[0]}


def main() -> None:
    for subscribers in [int(a) for a in sys.argv[1:]] or [100, 1_000, 3_000]:
        saturated: dict[str, list[dict[str, float]]] = {"naive": [], "feed": []}
        for _ in range(_ROUNDS):
            for mode, results in saturated.items():
                results.append(measure(mode, subscribers, 0))
        at_saturation = {mode: medians(results) for mode, results in saturated.items()}
        for mode, found in at_saturation.items():
            half = measure(mode, subscribers, found["deliveries_per_s"] / 2 / subscribers)
            idle = measure(mode, subscribers, 10)
            ratio = found["deliveries_per_s"] / at_saturation["naive"]["deliveries_per_s"]
            print(
                f"{subscribers:5} {mode:6} {found['deliveries_per_s']:>10,.0f} deliveries/s  {ratio:5.1f}x  "
                f"{found['messages_per_s']:>7,.0f} messages/s  "
                f"half load p50 {half['p50_ms']:.1f} p99 {half['p99_ms']:.1f} ms  "
                f"10/s p50 {idle['p50_ms']:.1f} p99 {idle['p99_ms']:.1f} ms  "
                f"{found['kib_per_subscriber']:.0f} KiB a subscriber  "
                f"broken {sum(r['broken'] for r in saturated[mode]) + half['broken'] + idle['broken']:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
