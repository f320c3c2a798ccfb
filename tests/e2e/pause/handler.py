"""Connects with a handler for SIGCONT, below a parent that asks for every change.

Prints what the call came to, how often the handler ran, and what the parent saw.
"""

import json
import os
import signal
import socket
import sys


def child(to):
    ran = 0

    def handled(*_):
        nonlocal ran
        ran += 1

    signal.signal(signal.SIGCONT, handled)
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as stream:
        came = stream.recv(64).decode()
    os.write(to, json.dumps({"came": came, "ran": ran}).encode())
    os._exit(7)


from_child, to_parent = os.pipe()
pid = os.fork()
if pid == 0:
    child(to_parent)
statuses = []
while not statuses or not statuses[-1].startswith("exited"):
    _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
    if os.WIFSTOPPED(status):
        statuses.append(f"stopped {os.WSTOPSIG(status)}")
    elif os.WIFCONTINUED(status):
        statuses.append("continued")
    else:
        statuses.append(f"exited {os.waitstatus_to_exitcode(status)}")
print(json.dumps({**json.loads(os.read(from_child, 4096)), "statuses": statuses}))
