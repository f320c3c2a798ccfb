# Tries actions that are refused for now, each twice, under asyncio: `program.py tcp:PORT udp:PORT …`.
# Prints, for each, a line of JSON: what the program saw the second time, and the processor's time of the two seconds
# after it.
import asyncio
import json
import sys
import time


def named(error):
    return f"{type(error).__name__} {getattr(error, 'errno', None)}"


async def connect(port):
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)
    except Exception as error:
        return "connect: " + named(error), None
    try:
        writer.write(b"hello")
        await writer.drain()
        return f"read: {await asyncio.wait_for(reader.read(64), 5)}", writer
    except Exception as error:
        return "read: " + named(error), writer


class Seen(asyncio.DatagramProtocol):
    def __init__(self):
        self.what = "nothing"

    def datagram_received(self, data, address):
        self.what = f"read: {data}"

    def error_received(self, error):
        self.what = "send: " + named(error)


async def send(port):
    loop = asyncio.get_running_loop()
    transport, seen = await loop.create_datagram_endpoint(Seen, local_addr=("127.0.0.1", 0))
    transport.sendto(b"hello", ("127.0.0.1", port))
    await asyncio.sleep(0.2)
    return seen.what, transport


async def main():
    for target in sys.argv[1:]:
        protocol, port = target.split(":")
        act = connect if protocol == "tcp" else send
        await act(int(port))
        spent = time.process_time()
        saw, kept = await act(int(port))
        await asyncio.sleep(2)
        print(json.dumps({"target": protocol, "saw": saw, "cpu": time.process_time() - spent}), flush=True)
        if kept is not None:
            kept.close()


asyncio.run(main())
