import asyncio
import os
import signal
import subprocess
import sys

import pytest

from oddstream_server import supervisor
from oddstream_server.lifecycle import Closing
from oddstream_server.supervisor import Worker, WorkerGroup, progress_reporter


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A worker whose program is a small script: it notes each start and obeys SIGTERM unless told not to."""
    notes = tmp_path / "starts"
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal, sys, time\n"
        f"open({str(notes)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "if sys.argv[-1] == 'stubborn': signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if sys.argv[-1] == 'crash' : sys.exit(3)\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    real = asyncio.create_subprocess_exec

    async def run_script(program, *arguments, **options):
        assert arguments[:2] == ("-m", "oddstream_server")
        return await real(sys.executable, str(script), *arguments[2:], **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", run_script)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.05)

    async def starts(count):
        async with asyncio.timeout(20):
            while not notes.exists() or len(notes.read_text().split()) < count:
                await asyncio.sleep(0.02)
        return [int(pid) for pid in notes.read_text().split()]

    def make(*arguments, stop_seconds=10.0):
        return Worker("serve-0", arguments, dict(os.environ), tmp_path / "serve-0.sock", stop_seconds)

    return make, starts


async def test_a_worker_that_is_killed_comes_back_as_a_new_process(stand_in):
    make, starts = stand_in
    worker = make("serve")
    await worker.start()
    (first,) = await starts(1)
    os.kill(first, signal.SIGKILL)
    assert (await starts(2))[1] != first
    assert worker.restarts == 1
    await worker.stop()
    assert worker.pid is None


async def test_the_pause_before_a_restart_grows_while_a_worker_keeps_crashing(stand_in):
    make, starts = stand_in
    worker = make("crash")
    begun = asyncio.get_running_loop().time()
    await worker.start()
    await starts(4)
    assert asyncio.get_running_loop().time() - begun >= 0.05 + 0.1 + 0.2
    await worker.stop()


async def test_a_worker_that_ignores_sigterm_is_killed_after_its_time(stand_in):
    make, starts = stand_in
    worker = make("stubborn", stop_seconds=0.3)
    await worker.start()
    (pid,) = await starts(1)
    await asyncio.sleep(0.2)  # the script installs its handler after it noted its start
    await worker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_group_without_an_answering_serving_worker_is_not_ready(tmp_path):
    group = WorkerGroup("0.1.0")
    assert (await group.state())["ready"] is False
    group.add("serve-0", ("serve",), {}, tmp_path, 1.0)
    state = await group.state()
    assert state["ready"] is False
    assert state["workers"] == {"serve-0": None}


def test_one_ctrl_c_that_arrives_twice_is_one_wish_and_a_later_one_ends_the_process_at_once(tmp_path):
    script = (
        "import asyncio, os, signal, time\n"
        "from oddstream_server import lifecycle\n"
        "lifecycle.SAME_WISH_SECONDS = 0.2\n"
        "async def main():\n"
        "    with lifecycle.StopSignal() as stop:\n"
        "        os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await stop.wait()\n"
        "        await asyncio.sleep(0.1)\n"
        "        print('draining', flush=True)\n"
        "        await asyncio.sleep(0.3)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await asyncio.sleep(5)\n"
        "        print('drained', flush=True)\n"
        "asyncio.run(main())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 130
    assert "drained" not in run.stdout
    assert "draining" in run.stdout


async def test_closers_run_backwards_and_one_that_fails_or_hangs_stops_no_other():
    order = []
    closing = Closing()

    async def note(name):
        order.append(name)

    async def fail():
        raise RuntimeError("planted")

    closing.add("database", lambda: note("database"))
    closing.add("hangs", asyncio.Event().wait, seconds=0.05)  # type: ignore[arg-type]  # what it answers is of no use
    closing.add("fails", fail)
    closing.add("server", lambda: note("server"))
    await closing.close()
    assert order == ["server", "database"]


def test_progress_lines_within_two_seconds_of_each_other_are_kept_back(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    seen = []
    report = progress_reporter(seen.append)
    report("fast")
    now[0] += 3
    report("slow")
    now[0] += 1
    report("fast again")
    assert seen == ["slow"]
