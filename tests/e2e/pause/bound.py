"""Many threads connect to one port. Prints how many came to what."""

import collections
import errno
import json
import socket
import sys
import threading

PORT, THREADS = int(sys.argv[1]), int(sys.argv[2])
came = collections.Counter()
lock = threading.Lock()


def connect():
    with socket.socket() as stream:
        try:
            stream.connect(("127.0.0.1", PORT))
            end = "ok"
        except OSError as error:
            end = errno.errorcode[error.errno]
    with lock:
        came[end] += 1


threading.stack_size(64 * 1024)
threads = [threading.Thread(target=connect) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(came))
