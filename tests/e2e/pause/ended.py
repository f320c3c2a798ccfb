"""Threads whose call ends while it waits, since its socket is closed: each goes on with something else. Prints how many did
not, how many calls ended, and what they came to. Those that were frozen before the socket was closed stay so.
"""

import os
import socket
import threading
import time

ROUNDS = 40
came, ended, stuck = set(), 0, 0


def send(number, returned, done):
    sender = socket.socket(fileno=number)
    try:
        sender.sendto(b"hello", ("127.0.0.7", 20000))
        came.add("ok")
    except OSError as error:
        came.add(error.errno)
    sender.detach()
    returned.set()
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        pass
    done.set()


for at in range(ROUNDS):
    number = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
    returned, done = threading.Event(), threading.Event()
    threading.Thread(target=send, args=(number, returned, done), daemon=True).start()
    time.sleep(at % 10 * 0.0003)
    os.close(number)
    if returned.wait(0.2):
        ended += 1
        stuck += not done.wait(8)
print(stuck, ended, *sorted(came, key=str), flush=True)
os._exit(0)
