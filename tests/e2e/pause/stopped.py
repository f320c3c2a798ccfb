"""A parent stops its child, whose call is held, and has it go on; another thread of the child counts.

Makes a file once the child goes on. Prints what the call came to, what the parent saw, after how many seconds it saw the
stop, and how far the child counted while it was stopped.
"""

import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

PORT, SIGNAL, FILE = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
count = mmap.mmap(-1, mmap.PAGESIZE)


def counted():
    return struct.unpack("q", count[:8])[0]


def child(to):
    # No stop but SIGSTOP is for a group whose members have no parent in another one of the session.
    os.setpgid(0, 0)
    done = threading.Event()

    def work():
        while not done.wait(0.005):
            count[:8] = struct.pack("q", counted() + 1)

    worker = threading.Thread(target=work)
    worker.start()
    with socket.create_connection(("127.0.0.1", PORT)) as stream:
        came = stream.recv(64).decode()
    done.set()
    worker.join()
    os.write(to, json.dumps({"came": came}).encode())
    os._exit(7)


def is_held(pid):
    with open(f"/proc/{pid}/cgroup") as cgroup:
        return "enforcer-hold-" in cgroup.read()


from_child, to_parent = os.pipe()
pid = os.fork()
if pid == 0:
    child(to_parent)
while not is_held(pid):
    time.sleep(0.05)
time.sleep(0.2)
sent = time.monotonic()
os.kill(pid, SIGNAL)
seen, statuses = {}, []
while not statuses or not statuses[-1].startswith("exited"):
    _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
    if os.WIFSTOPPED(status):
        statuses.append(f"stopped {os.WSTOPSIG(status)}")
        seen["after"] = time.monotonic() - sent
        before = counted()
        time.sleep(1)
        seen["counted"] = counted() - before
        os.kill(pid, signal.SIGCONT)
    elif os.WIFCONTINUED(status):
        statuses.append("continued")
        os.mkdir(FILE)
    else:
        statuses.append(f"exited {os.waitstatus_to_exitcode(status)}")
print(json.dumps({**json.loads(os.read(from_child, 4096)), **seen, "statuses": statuses}))
