"""How many calls are inside the server, and until when the drain has to wait."""

import asyncio

from oddstream_server.interceptors.call import Method


class InFlight:
    """Counts calls from their arrival until their handler's cleanup is done, which ``Server.stop`` doesn't wait for."""

    def __init__(self) -> None:
        self.unary = 0
        self.streams = 0
        self.draining = False
        """True once new streams are refused."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def total(self) -> int:
        return self.unary + self.streams

    def enter(self, method: Method) -> None:
        if method.kind.response_streaming:
            self.streams += 1
        else:
            self.unary += 1
        self._idle.clear()

    def leave(self, method: Method) -> None:
        if method.kind.response_streaming:
            self.streams -= 1
        else:
            self.unary -= 1
        if self.total == 0:
            self._idle.set()

    async def wait_until_idle(self, seconds: float) -> bool:
        """False when calls are still inside after that time."""
        try:
            async with asyncio.timeout(seconds):
                while self.total:
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True
