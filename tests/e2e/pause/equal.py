"""Three threads connect to one port at the same time, once a file is there if one is named. Prints what each came to."""

import os
import socket
import sys
import threading
import time

came = []


def connect():
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as stream:
            came.append(stream.recv(64).decode())
    except OSError as error:
        came.append(str(error.errno))


while not all(os.path.exists(file) for file in sys.argv[2:]):
    time.sleep(0.01)
threads = [threading.Thread(target=connect) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*came)
