"""AWS Secrets Manager: the signature against AWS's own library, the call against moto, and who we are to AWS."""

import datetime
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.application.secrets.provider import SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.secrets.aws import AwsSecretsManager
from oddstream_server.secrets.aws_identity import AwsIdentity
from oddstream_server.secrets.signature import AwsCredentials, signed_headers
from tests.secret_stores import moto_server

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "planted-secret-key"}


@given(
    body=st.binary(max_size=200),
    target=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    token=st.none() | st.just("session-token"),
    moment=st.integers(1_420_070_400, 2_208_988_800).map(lambda s: datetime.datetime.fromtimestamp(s, datetime.UTC)),
)
def test_the_signature_is_the_one_that_awss_own_library_makes(
    body: bytes, target: str, token: str | None, moment: datetime.datetime
) -> None:
    url = "https://secretsmanager.eu-west-1.amazonaws.com/"
    credentials = AwsCredentials("AKIDEXAMPLE", "planted-secret-key", token)
    ours = signed_headers(
        credentials,
        region="eu-west-1",
        service="secretsmanager",
        url=url,
        headers={"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"},
        body=body,
        now=moment,
    )
    request = AWSRequest("POST", url, {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}, data=body)
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "planted-secret-key", token), "secretsmanager", "eu-west-1")
    request.context["timestamp"] = ours["X-Amz-Date"]
    request.headers["X-Amz-Date"] = ours["X-Amz-Date"]
    if token is not None:
        request.headers["X-Amz-Security-Token"] = token
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert ours["Authorization"].endswith(f"Signature={signer.signature(text, request)}")


async def test_secrets_are_read_as_they_are_now(tmp_path: object) -> None:
    async with moto_server() as url:
        store = AwsSecretsManager("eu-west-1", KEYS, url)
        reference = SecretReference.parse("aws:oddstream/database#password")
        with pytest.raises(SecretMissing, match="ResourceNotFoundException"):
            await store.fetch(reference)
        await _call(url, "CreateSecret", f'{{"Name":"{reference.path}","SecretString":"{{\\"password\\":\\"one\\"}}"}}')
        assert (await store.fetch(reference)).get(reference) == "one"
        await _call(url, "PutSecretValue", f'{{"SecretId":"{reference.path}","SecretString":"two"}}')
        assert (await store.fetch(reference)).fields == {"value": "two"}
    with pytest.raises(SecretStoreAway, match="can't be reached") as caught:
        await store.fetch(reference)
    assert "planted" not in str(caught.value) + repr(store)


async def _call(url: str, action: str, body: str) -> None:
    headers = signed_headers(
        AwsCredentials("AKIDEXAMPLE", "planted-secret-key"),
        region="eu-west-1",
        service="secretsmanager",
        url=f"{url}/",
        headers={"X-Amz-Target": f"secretsmanager.{action}", "Content-Type": "application/x-amz-json-1.1"},
        body=body.encode(),
        now=datetime.datetime.now(datetime.UTC),
    )
    async with aiohttp.ClientSession() as session, session.post(f"{url}/", data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()


class Metadata:
    """The two endpoints that tell a workload its keys, on loopback."""

    def __init__(self) -> None:
        self.asked = 0
        self.expires = datetime.datetime(2030, 1, 1, 1, tzinfo=datetime.UTC)

    async def token(self, request: web.Request) -> web.Response:
        assert request.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        return web.Response(text="session")

    async def roles(self, request: web.Request) -> web.Response:
        assert request.headers["X-aws-ec2-metadata-token"] == "session"
        return web.Response(text="the-role")

    async def keys(self, request: web.Request) -> web.Response:
        assert request.headers.get("X-aws-ec2-metadata-token") == "session" or request.headers["Authorization"] == "pod"
        self.asked += 1
        found = {"AccessKeyId": f"AKID{self.asked}", "SecretAccessKey": "planted", "Token": "t"}
        return web.json_response({**found, "Expiration": self.expires.strftime("%Y-%m-%dT%H:%M:%SZ")})


@pytest.fixture
async def metadata() -> AsyncIterator[tuple[Metadata, str]]:
    metadata = Metadata()
    application = web.Application()
    application.router.add_put("/latest/api/token", metadata.token)
    application.router.add_get("/latest/meta-data/iam/security-credentials/", metadata.roles)
    application.router.add_get("/latest/meta-data/iam/security-credentials/the-role", metadata.keys)
    application.router.add_get("/pod", metadata.keys)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield metadata, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_machines_role_is_asked_for_its_keys_before_they_expire(metadata: tuple[Metadata, str]) -> None:
    _, url = metadata
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    identity = AwsIdentity({}, lambda: now, url)
    assert (await identity.credentials()).access_key_id == "AKID1"
    now += datetime.timedelta(minutes=54)
    assert (await identity.credentials()).access_key_id == "AKID1"
    now += datetime.timedelta(minutes=2)
    assert (await identity.credentials()).access_key_id == "AKID2"
    assert "planted" not in repr(identity) + repr(await identity.credentials())


async def test_a_container_asks_its_own_endpoint_with_its_token(metadata: tuple[Metadata, str]) -> None:
    _, url = metadata
    variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/pod", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod"}
    assert (await AwsIdentity(variables).credentials()).session_token == "t"


async def test_keys_of_the_environment_go_first() -> None:
    found = await AwsIdentity({**KEYS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}).credentials()
    assert found.access_key_id == "AKIDEXAMPLE"


async def test_a_machine_without_a_role_is_told_so() -> None:
    with pytest.raises(SecretStoreAway):
        await AwsIdentity({}, machine_url="http://127.0.0.1:1").credentials()
