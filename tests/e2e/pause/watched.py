"""A child below a parent that asks for every change of it. What follows calls `watch`."""

import json
import os
import signal
import socket
import sys
import threading
import time


def watch(child, started=lambda pid: None, stopped=lambda pid: None, continued=lambda: None):
    """Runs `child`, which returns what it has seen, in a process of its own, and gives that, with what the parent saw.

    The parent calls the others when the child has done so.
    """
    from_child, to_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.write(to_parent, json.dumps(child()).encode())
        os._exit(7)
    started(pid)
    statuses = []
    while not statuses or not statuses[-1].startswith("exited"):
        _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status):
            statuses.append(f"stopped {os.WSTOPSIG(status)}")
            stopped(pid)
        elif os.WIFCONTINUED(status):
            statuses.append("continued")
            continued()
        else:
            statuses.append(f"exited {os.waitstatus_to_exitcode(status)}")
    return {**json.loads(os.read(from_child, 4096)), "statuses": statuses}


def connect():
    """What a server says to whoever connects."""
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as stream:
        return stream.recv(64).decode()


