"""Connects while another thread sends SIGCONTs to the program and to the thread, below a parent that asks for every change.

Prints what the call came to, how many signals were sent, and what the parent saw.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading

PORT = int(sys.argv[1])
SYS_TGKILL = 234
libc = ctypes.CDLL(None, use_errno=True)


def child(to):
    seen = {"sent": 0}
    done = threading.Event()

    def send(thread):
        while not done.wait(0.001):
            os.kill(os.getpid(), signal.SIGCONT)
            libc.syscall(SYS_TGKILL, os.getpid(), thread, signal.SIGCONT)
            seen["sent"] += 2

    sender = threading.Thread(target=send, args=(threading.get_native_id(),))
    sender.start()
    with socket.create_connection(("127.0.0.1", PORT)) as stream:
        seen["came"] = stream.recv(64).decode()
    done.set()
    sender.join()
    os.write(to, json.dumps(seen).encode())
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
