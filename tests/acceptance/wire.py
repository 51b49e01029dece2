"""The wire to a server: a TCP forwarder on loopback that can be cut."""

import asyncio
import contextlib
import socket
import threading

CHUNK_BYTES = 65_536
START_TIMEOUT_S = 10


class Wire:
    """Forwards connections on `port` to `target_port`. While it is cut, it drops all connections at once.

    The port stays bound for as long as the wire exists, so that a server may be named after it.
    """

    def __init__(self):
        self.target_port = None
        self._cut = False
        self._writers = set()
        self._sockets = _bound_sockets()
        self.port = self._sockets[0].getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(name="wire", target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers = [self._call(asyncio.start_server(self._forward, sock=each)) for each in self._sockets]

    def cut(self):
        """Drops the open connections and every new one."""
        self._call(self._set_cut(True))

    def heal(self):
        self._call(self._set_cut(False))

    def close(self):
        self.cut()
        self._call(_end_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        for each in self._sockets:
            each.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_TIMEOUT_S)

    async def _set_cut(self, cut):
        self._cut = cut
        if cut:
            for writer in list(self._writers):
                writer.transport.abort()

    async def _forward(self, reader, writer):
        if self._cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()


async def _end_others():
    """Ends all other tasks of the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _pump(reader, writer):
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


def _bound_sockets():
    """Loopback in both protocols where there are two, as "localhost" may mean either."""
    first = socket.socket(socket.AF_INET)
    first.bind(("127.0.0.1", 0))
    sockets = [first]
    with contextlib.suppress(OSError):
        second = socket.socket(socket.AF_INET6)
        second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        second.bind(("::1", first.getsockname()[1]))
        sockets.append(second)
    return sockets
