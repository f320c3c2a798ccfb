"""Connects with a handler that returns, until the call ends with an error; names itself `told`, and connects again.

Prints how often the handler ran, the error, what the second connect came to, and the socket's error after it.
"""

import errno
import signal
import socket
import sys

handled = 0


def handler(*_):
    global handled
    handled += 1


signal.signal(signal.SIGUSR1, handler)
to = ("127.0.0.1", int(sys.argv[1]))
with socket.socket() as stream:
    if sys.argv[2] == "timeout":
        stream.settimeout(60)
    came = "connected"
    try:
        stream.connect(to)
    except OSError as error:
        came = errno.errorcode[error.errno]
    with open("/proc/self/comm", "w") as name:
        name.write("told")
    stream.connect(to)
    second = stream.recv(64).decode()
    error = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
print(f"handled {handled}, {came}, then {second}, error {error}")
