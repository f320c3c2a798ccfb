"""Two lots of threads that each send to a port of their own, the second once a file is there: the even ports are allowed,
the others refused. Prints how many came to what they should have.
"""

import json
import os
import socket
import sys
import threading
import time

FILE, EACH = sys.argv[1], int(sys.argv[2])
right, wrong = [], []


def send(port):
    expected = "ok" if port % 2 == 0 else 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"hello", ("127.0.0.7", port))
            came = "ok"
        except OSError as error:
            came = error.errno
    (right if came == expected else wrong).append([port, came])


def lot(first):
    threads = [threading.Thread(target=send, args=(port,)) for port in range(first, first + EACH)]
    for thread in threads:
        thread.start()
    return threads


threads = lot(20000)
while not os.path.exists(FILE):
    time.sleep(0.001)
threads += lot(21000)
for thread in threads:
    thread.join()
print(json.dumps({"right": len(right), "wrong": wrong}))
