"""Threads connect to one port, each several times, one call after the other. Prints how many calls came to what, and the
seconds that they took.
"""

import collections
import errno
import json
import socket
import sys
import threading
import time

PORT, THREADS, CALLS = (int(argument) for argument in sys.argv[1:])
came = collections.Counter()
lock = threading.Lock()


def work():
    for _ in range(CALLS):
        with socket.socket() as stream:
            try:
                stream.connect(("127.0.0.1", PORT))
                end = "ok"
            except OSError as error:
                end = errno.errorcode[error.errno]
        with lock:
            came[end] += 1


threads = [threading.Thread(target=work) for _ in range(THREADS)]
started = time.monotonic()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"came": came, "took": time.monotonic() - started}))
