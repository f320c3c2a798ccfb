"""Connects in a second thread, once the first has ended."""

import ctypes
import os
import socket
import sys
import threading
import time

SYS_EXIT = 60


def connect():
    # The first thread has ended: its state is that of a zombie until the others have ended too.
    while "Z (zombie)" not in open("/proc/self/status").read():
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as stream:
        os.write(1, stream.recv(64))
    os._exit(0)


threading.Thread(target=connect).start()
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
