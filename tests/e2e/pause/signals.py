"""Connects with all signals blocked, or with SIGCONT ignored."""

import signal
import socket
import sys

if sys.argv[2] == "block":
    signal.pthread_sigmask(signal.SIG_SETMASK, range(1, signal.NSIG))
else:
    signal.signal(signal.SIGCONT, signal.SIG_IGN)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as stream:
    print(stream.recv(64).decode())
