"""More threads send to ports of their own than an agent may have requests. Prints what the calls came to that ended, once
a file is there, and how many wait.
"""

import json
import os
import socket
import sys
import threading
import time

FILE, THREADS = sys.argv[1], int(sys.argv[2])
came = []


def send(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"hello", ("127.0.0.7", port))
            came.append(0)
        except OSError as error:
            came.append(error.errno)


for number in range(THREADS):
    threading.Thread(target=send, args=(20000 + number,), daemon=True).start()
while not os.path.exists(FILE):
    time.sleep(0.01)
print(json.dumps({"came": sorted(came), "wait": THREADS - len(came)}), flush=True)
os._exit(0)
