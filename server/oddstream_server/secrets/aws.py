"""AWS Secrets Manager: one call, ``GetSecretValue``, signed by ourselves.

AWS's own library for Python weighs some 25 MB with every service's description in it and is not for an event loop; its
asynchronous wrapper pins a version of it. AWS's small signing library doesn't run on this Python.
"""

from collections.abc import Mapping

import orjson

from oddstream_server.application.secrets.provider import Secret, SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.secrets.aws_identity import AwsIdentity, Now, utc_now
from oddstream_server.secrets.requests import StoreSession
from oddstream_server.secrets.signature import signed_headers

STORE = "aws"
_SERVICE = "secretsmanager"
_MISSING = ("ResourceNotFoundException", "InvalidRequestException", "InvalidParameterException")


class AwsSecretsManager:
    """Fulfils :class:`~oddstream_server.application.secrets.provider.SecretProvider` for ``aws:<name or ARN>``.

    :param environment: the variables whose names begin with ``AWS_``.
    :param endpoint_url: instead of the region's own, e.g. a VPC endpoint.
    """

    def __init__(
        self, region: str, environment: Mapping[str, str], endpoint_url: str | None = None, now: Now = utc_now
    ) -> None:
        self._region = region
        self._url = (endpoint_url or f"https://secretsmanager.{region}.amazonaws.com").rstrip("/") + "/"
        self._identity = AwsIdentity(environment, now)
        self._now = now
        self._session = StoreSession("AWS Secrets Manager")

    async def fetch(self, reference: SecretReference) -> Secret:
        body = orjson.dumps({"SecretId": reference.path})
        headers = signed_headers(
            await self._identity.credentials(),
            region=self._region,
            service=_SERVICE,
            url=self._url,
            headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"{_SERVICE}.GetSecretValue"},
            body=body,
            now=self._now(),
        )
        answer = await self._session.request("POST", self._url, headers=headers, body=body)
        found = answer.json()
        if answer.status != 200:
            kind = str(found.get("__type", "")).rpartition("#")[2]
            if kind in _MISSING:
                raise SecretMissing(f"{reference}: AWS answers {kind}")
            raise SecretStoreAway(f"{reference}: AWS answers {answer.status} {kind[:60]}")
        if "SecretString" not in found:
            raise SecretMissing(f"{reference}: the secret is binary; keep it as text or JSON")
        return Secret.from_text(str(found["SecretString"]))
