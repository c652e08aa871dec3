"""HTTP to the OpenID provider: short times, small answers, no redirects."""

import ssl
from pathlib import Path
from typing import Any

import aiohttp
import orjson

_MAXIMUM_BYTES = 512 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=3.0)


class ProviderAway(Exception):
    """Why the provider's answer can't be used."""


class ProviderHttp:
    """:param ca_file: PEM of the authority that signed its certificate; None takes the system's own."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)

    async def get(self, url: str) -> dict[str, Any]:
        """:raises ProviderAway: it can't be reached, or answers no JSON object."""
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(url, ssl=self._tls, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(_MAXIMUM_BYTES)
                if answer.status != 200:
                    raise ProviderAway(f"it answers {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderAway(f"it can't be reached ({type(error).__name__})") from None
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ProviderAway("its answer is no JSON") from None
        if not isinstance(found, dict):
            raise ProviderAway("its answer is no JSON object")
        return found
