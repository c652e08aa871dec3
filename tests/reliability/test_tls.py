"""The gRPC port over TLS: a real server process, knocked at by openssl and by gRPC's own client."""

import asyncio
import datetime
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from oddstream.v1 import admin_service_pb2, admin_service_pb2_grpc, signal_service_pb2, signal_service_pb2_grpc
from tests.authority import Authority, Issued
from tests.serving_process import Serving, serving

VERSIONS_REFUSED = ("-tls1", "-tls1_1", "-tls1_2")
# The client's library refuses 1.0 and 1.1 by itself at its usual level; then nothing would be shown of the server.
ANY_VERSION = ("-cipher", "ALL:@SECLEVEL=0")
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
GREETING_TAKEN = b"\0\0\0\x04\x01\0\0\0\0"


@dataclass
class Secured:
    server: Serving
    authority: Authority
    certificate: Path
    key: Path

    def channel(self, client: Issued | None = None) -> grpc.aio.Channel:
        shown = (client.key_pem, client.certificate_pem) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, *shown)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.server.port}", credentials)


@asynccontextmanager
async def tls_server(
    tmp_path: Path, database_url: str, redis_url: str, *, rsa: bool = False, mutual: bool = False
) -> AsyncIterator[Secured]:
    authority = Authority()
    certificate, key, ca = tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem"
    authority.issue("first", rsa=rsa).write(certificate, key)
    ca.write_bytes(authority.pem)
    settings = {"tls_certificate_file": str(certificate), "tls_private_key_file": str(key)}
    if mutual:
        settings |= {
            "tls_client_ca_file": str(ca),
            "tls_client_roles": "reader=viewer,spiffe://test/trader=admin",
            "unauthenticated_calls_per_minute": "10",
        }
    async with serving(tmp_path, database_url, redis_url, settings) as server:
        yield Secured(server, authority, certificate, key)


@pytest.fixture(params=["ecdsa", "rsa"])
async def secured(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, redis_url: str
) -> AsyncIterator[Secured]:
    """A server with a certificate of each key type, since each keeps TLS 1.2 out with the other's suites."""
    async with tls_server(tmp_path, database_url, redis_url, rsa=request.param == "rsa") as made:
        yield made


@pytest.fixture
async def mutual(tmp_path: Path, database_url: str, redis_url: str) -> AsyncIterator[Secured]:
    async with tls_server(tmp_path, database_url, redis_url, mutual=True) as made:
        yield made


async def handshake(port: int, *arguments: str) -> tuple[bool, str]:
    """openssl's client: whether the handshake was completed, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    text = printed.decode(errors="replace")
    return "Cipher is (NONE)" not in text and "Cipher is" in text, text


async def speaks(port: int, *arguments: str) -> tuple[bool, str]:
    """openssl's client: whether the server went on to HTTP/2, and what was printed.

    With TLS 1.3 a server looks at a client's certificate after the client is done with its handshake, so that the
    handshake alone says nothing of whether it was let in.
    """
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2", "-tls1_3", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(HTTP2_GREETING)  # it stays open: at its end the client would leave
    printed = b""
    async with asyncio.timeout(20):
        while (chunk := await process.stdout.read(4096)) and GREETING_TAKEN not in printed + chunk:
            printed += chunk
    if chunk:
        process.kill()
    await process.communicate()
    return bool(chunk), printed.decode(errors="replace")


async def ask(channel: grpc.aio.Channel, auth: tuple[tuple[str, str], ...] = ()) -> None:
    await signal_service_pb2_grpc.SignalServiceStub(channel).ListStrategies(
        signal_service_pb2.ListStrategiesRequest(), metadata=auth, timeout=5
    )


async def code_of(channel: grpc.aio.Channel, auth: tuple[tuple[str, str], ...] = ()) -> grpc.StatusCode:
    try:
        await ask(channel, auth)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_only_tls_1_3_is_spoken_and_a_new_certificate_is_taken_under_load_without_a_failed_call(
    secured: Secured,
) -> None:
    port = secured.server.port
    for version in VERSIONS_REFUSED:
        shaken, text = await handshake(port, version, *ANY_VERSION)
        assert not shaken, text
        # gRPC closes without an alert; that our side wrote its greeting shows who ended it.
        assert "written 0 bytes" not in text, text
    shaken, text = await handshake(port, "-tls1_3")
    assert shaken
    assert "TLSv1.3" in text
    assert "CN = first" in text

    failures: list[grpc.StatusCode] = []
    calls = 0
    swapped, enough = asyncio.Event(), asyncio.Event()

    async def load() -> None:
        nonlocal calls
        after = 0
        while after < 20:  # a connection a call: each is a handshake
            async with secured.channel() as channel:
                code = await code_of(channel, secured.server.auth)
            calls += 1
            after += swapped.is_set()
            if code is not grpc.StatusCode.OK:
                failures.append(code)
            if calls >= 40:
                enough.set()

    async with secured.channel() as kept:
        await ask(kept, secured.server.auth)
        loads = [asyncio.create_task(load()) for _ in range(4)]
        await asyncio.wait_for(enough.wait(), 30)
        kind_is_rsa = "RSA" in text.split("Peer signature type")[-1][:20]
        secured.authority.issue("second", rsa=kind_is_rsa).write(secured.certificate, secured.key)
        swapped.set()
        await asyncio.wait_for(asyncio.gather(*loads), 30)
        await ask(kept, secured.server.auth)  # a connection that was open goes on
    assert calls >= 100
    assert failures == []
    shaken, text = await handshake(port, "-tls1_3")
    assert shaken
    assert "CN = second" in text
    assert not (await handshake(port, "-tls1_2", *ANY_VERSION))[0]


async def test_plaintext_is_not_answered_on_a_tls_port(secured: Secured) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{secured.server.port}") as channel:
        assert await code_of(channel, secured.server.auth) is grpc.StatusCode.UNAVAILABLE


async def test_a_client_refuses_a_server_whose_certificate_is_foreign_of_another_name_or_expired(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    async with tls_server(tmp_path, database_url, redis_url) as secured:
        port, authority = secured.server.port, secured.authority
        trusted = ("-verify_return_error", "-verify_ip", "127.0.0.1", "-CAfile", str(tmp_path / "ca.pem"))

        async def refused(by_grpc: str = "CERTIFICATE_VERIFY_FAILED") -> str:
            """What openssl says of why; gRPC's own client has to have the same reason."""
            spoken, text = await speaks(port, *trusted)
            assert not spoken, text
            async with secured.channel() as channel:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await ask(channel, secured.server.auth)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert by_grpc in (error.value.details() or "")
            return text

        assert (await speaks(port, *trusted))[0]
        Authority().issue("of an authority of the same name").write(secured.certificate, secured.key)
        assert "verify error" in await refused()
        authority.issue("elsewhere", host="elsewhere.example").write(secured.certificate, secured.key)
        assert "IP address mismatch" in await refused("Hostname Verification Check failed")
        expiry = time.time() + 3
        authority.issue("short", lasts=datetime.timedelta(seconds=3)).write(secured.certificate, secured.key)
        shaken, text = await handshake(port, "-tls1_3")
        assert shaken, "the server takes it while it is good"
        assert "CN = short" in text
        await asyncio.sleep(max(0.0, expiry + 1 - time.time()))  # nothing tells of a clock that goes on
        assert "certificate has expired" in await refused()
        authority.issue("second").write(secured.certificate, secured.key)
        async with secured.channel() as channel:
            await ask(channel, secured.server.auth)


def shown_to_openssl(folder: Path, client: Issued | None) -> tuple[str, ...]:
    if client is None:
        return ()
    certificate, key = folder / "client.pem", folder / "client.key"
    client.write(certificate, key)
    return ("-cert", str(certificate), "-key", str(key))


async def test_with_mutual_tls_the_certificate_is_the_caller_and_others_do_not_get_in(
    mutual: Secured, tmp_path: Path
) -> None:
    authority = mutual.authority
    reader = authority.issue("reader")
    async with mutual.channel(reader) as channel:
        assert await code_of(channel) is grpc.StatusCode.OK
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin.ListApiKeys(admin_service_pb2.ListApiKeysRequest())
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        # A key that the call carries goes before the certificate.
        assert await code_of(channel, (("authorization", "Bearer nothing"),)) is grpc.StatusCode.UNAUTHENTICATED
    async with mutual.channel(authority.issue("whoever", uri="spiffe://test/trader")) as channel:
        assert await code_of(channel) is grpc.StatusCode.OK
    async with mutual.channel(authority.issue("stranger")) as channel:
        assert await code_of(channel) is grpc.StatusCode.PERMISSION_DENIED
        assert await code_of(channel, mutual.server.auth) is grpc.StatusCode.OK

    refused_in_the_handshake = {
        "none": None,
        "of another authority": Authority("another").issue("reader"),
        "of an authority of the same name": Authority().issue("reader"),
        "expired": authority.issue("reader", lasts=-datetime.timedelta(seconds=1)),
    }
    for kind, client in refused_in_the_handshake.items():
        async with mutual.channel(client) as channel:
            assert await code_of(channel, mutual.server.auth) is grpc.StatusCode.UNAVAILABLE, kind
        spoken, text = await speaks(mutual.server.port, *shown_to_openssl(tmp_path, client))
        assert not spoken, (kind, text)
    spoken, text = await speaks(mutual.server.port, *shown_to_openssl(tmp_path, reader))
    assert spoken, text

    async with mutual.channel(reader) as channel:
        bad = [await code_of(channel, (("authorization", "Bearer nothing"),)) for _ in range(15)]
        assert bad[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED, "the address has used up what strangers have"
        assert await code_of(channel) is grpc.StatusCode.OK, "a certificate that was proven is no stranger's"
    async with mutual.channel(authority.issue("stranger")) as channel:
        assert await code_of(channel) is grpc.StatusCode.RESOURCE_EXHAUSTED, "one without a role is"
    log = mutual.server.log.read_text()
    called = [line for line in map(json.loads, log.splitlines()) if line.get("subject", "").startswith("sub_")]
    assert called, "callers with certificates are told by pseudonym"
    assert '"subject": "reader"' not in log
    assert "cert:reader" not in log
    assert "PRIVATE KEY" not in log
