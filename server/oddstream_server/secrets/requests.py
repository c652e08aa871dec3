"""HTTP to a store of secrets: short times, no redirects, and no body in any error.

A session lasts for one request: a store is asked when a connection to the database is made, and nothing has to be
closed at the end.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from oddstream_server.application.secrets.provider import SecretStoreAway

TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = field(repr=False)

    def json(self) -> dict[str, object]:
        """Empty where the body is no JSON object."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}


class StoreSession:
    """:param name: of the store, for errors.
    :param ca_file: PEM of the authority that signed its certificate; None takes the system's own.
    """

    def __init__(self, name: str, ca_file: Path | None = None, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._name = name
        self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2  # not every store's edge speaks 1.3
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """:raises SecretStoreAway: it can't be reached, or is out of order by its own word (429 and 5xx)."""
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.request(
                    method, url, headers=headers, data=body, ssl=self._tls, allow_redirects=False
                ) as answer,
            ):
                found = Answer(answer.status, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The class alone: texts of the client repeat URLs and headers.
            raise SecretStoreAway(f"{self._name} can't be reached ({type(error).__name__})") from None
        if found.status == 429 or found.status >= 500:
            raise SecretStoreAway(f"{self._name} answers {found.status}")
        return found
