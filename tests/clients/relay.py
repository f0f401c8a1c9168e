"""Passes connections to 127.0.0.1:11300 on to HOST:PORT, half-closes too, for suites that know one address only."""

import asyncio
import sys


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def main():
    host, _, port = sys.argv[1].rpartition(":")

    async def serve(client_reader, client_writer):
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            client_writer.close()
            return
        await asyncio.gather(pump(client_reader, writer), pump(reader, client_writer))
        writer.close()
        client_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 11300)
    async with server:
        await server.serve_forever()


asyncio.run(main())
