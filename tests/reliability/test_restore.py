"""A dump that was taken before an erasure is restored: nobody who was erased is there when the server takes calls."""

import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest

from oddstream.v1 import access_pb2, admin_service_pb2, admin_service_pb2_grpc, api_key_pb2
from oddstream_server.embedded.launch.binaries import postgres_programs
from tests.serving_process import Serving, serving

pytestmark = pytest.mark.timeout(120)
pb = admin_service_pb2
NAME, EMAIL = "Ada Planted-Lovelace", "ada.planted@example.org"


def stub_of(channel: grpc.aio.Channel) -> Any:
    return admin_service_pb2_grpc.AdminServiceStub(channel)


def postgres_tool(name: str, *arguments: str) -> None:
    program = postgres_programs().program(name)
    subprocess.run([program, *arguments], env={**os.environ, "LC_ALL": "C"}, check=True, capture_output=True)


async def keys_of(server: Serving) -> list[api_key_pb2.ApiKey]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        admin = stub_of(channel)
        listed = await admin.ListApiKeys(pb.ListApiKeysRequest(), metadata=server.auth)
        return [key for key in listed.api_keys if key.display_name != "test"]


async def test_nothing_of_an_erased_person_comes_back_with_a_restore(
    tmp_path: Path, database_url: str, database_dsn: str, empty_database_url: str, redis_url: str
) -> None:
    dump = tmp_path / "before.dump"
    restored_dsn = empty_database_url.replace("postgresql+asyncpg://", "postgresql://", 1)
    folder = tmp_path / "server"
    folder.mkdir()
    async with serving(folder, database_url, redis_url, {}) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            admin = stub_of(channel)
            order = pb.CreateApiKeyRequest(
                display_name="Ada's bot",
                owner_name=NAME,
                owner_email=EMAIL,
                role=access_pb2.ROLE_VIEWER,
                request_id=str(uuid4()),
            )
            await admin.CreateApiKey(order, metadata=server.auth)
            postgres_tool("pg_dump", "--format=custom", f"--file={dump}", database_dsn)
            erase = pb.EraseSubjectDataRequest(subject=pb.SubjectIdentity(owner_email=EMAIL), note="asked by letter")
            await admin.EraseSubjectData(erase, metadata=server.auth)
        assert NAME not in server.log.read_text() + (folder / "data" / "erasures.jsonl").read_text()

    postgres_tool("pg_restore", "--no-owner", f"--dbname={restored_dsn}", str(dump))
    connection = await asyncpg.connect(restored_dsn)
    assert await connection.fetchval("SELECT count(*) FROM subjects") == 1, "the dump was to hold her still"
    async with serving(folder, empty_database_url, redis_url, {}) as server:
        (key,) = await keys_of(server)
        assert (key.owner_name, key.owner_email, key.display_name) == ("", "", "erased")
        assert key.state == api_key_pb2.API_KEY_STATE_REVOKED
    assert await connection.fetchval("SELECT count(*) FROM subjects") == 0
    assert await connection.fetchval("SELECT count(*) FROM idempotency_requests WHERE subject_id IS NOT NULL") == 0
    assert await connection.fetchval("SELECT count(*) FROM erasures") == 1
    await connection.close()
