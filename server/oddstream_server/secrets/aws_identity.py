"""Who we are to AWS: keys in the environment, the container's own endpoint (ECS, EKS Pod Identity), or the machine's
(EC2, IMDSv2), asked in this order as AWS's own libraries do."""

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path

from oddstream_server.application.secrets.provider import SecretStoreAway
from oddstream_server.secrets.requests import StoreSession
from oddstream_server.secrets.signature import AwsCredentials

_CONTAINER = "http://169.254.170.2"
_MACHINE = "http://169.254.169.254"
_EARLY = datetime.timedelta(minutes=5)

Now = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class AwsIdentity:
    """:param environment: the variables whose names begin with ``AWS_``."""

    def __init__(self, environment: Mapping[str, str], now: Now = utc_now, machine_url: str = _MACHINE) -> None:
        self._environment = environment
        self._now = now
        self._machine_url = machine_url
        self._session = StoreSession("AWS credentials endpoint", timeout_seconds=1.0)
        self._held: AwsCredentials | None = None
        self._held_until: datetime.datetime | None = None

    def __repr__(self) -> str:
        return "AwsIdentity(...)"

    async def credentials(self) -> AwsCredentials:
        """:raises SecretStoreAway: there are none to be had."""
        variables = self._environment
        if variables.get("AWS_ACCESS_KEY_ID") and variables.get("AWS_SECRET_ACCESS_KEY"):
            return AwsCredentials(
                variables["AWS_ACCESS_KEY_ID"],
                variables["AWS_SECRET_ACCESS_KEY"],
                variables.get("AWS_SESSION_TOKEN") or None,
            )
        if self._held is None or self._held_until is None or self._now() > self._held_until - _EARLY:
            self._held, self._held_until = await self._fetch()
        return self._held

    async def _fetch(self) -> tuple[AwsCredentials, datetime.datetime]:
        full = self._environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        relative = self._environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        if full or relative:
            return await self._ask(full or f"{_CONTAINER}{relative}", self._container_headers())
        token = await self._session.request(
            "PUT",
            f"{self._machine_url}/latest/api/token",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
        )
        headers = {"X-aws-ec2-metadata-token": token.body.decode()}
        roles = f"{self._machine_url}/latest/meta-data/iam/security-credentials/"
        listed = await self._session.request("GET", roles, headers=headers)
        if token.status != 200 or listed.status != 200 or not listed.body:
            raise SecretStoreAway("this machine has no AWS role, and the environment no AWS keys")
        return await self._ask(roles + listed.body.decode().split()[0], headers)

    def _container_headers(self) -> dict[str, str]:
        file = self._environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = self._environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if file:
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SecretStoreAway(f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {error.strerror}") from None
        return {"Authorization": token} if token else {}

    async def _ask(self, url: str, headers: dict[str, str]) -> tuple[AwsCredentials, datetime.datetime]:
        answer = await self._session.request("GET", url, headers=headers)
        found = answer.json()
        try:
            credentials = AwsCredentials(
                str(found["AccessKeyId"]), str(found["SecretAccessKey"]), str(found["Token"]) or None
            )
            return credentials, datetime.datetime.fromisoformat(str(found["Expiration"]))
        except (KeyError, ValueError):
            raise SecretStoreAway(f"the AWS credentials endpoint answers {answer.status} without credentials") from None
