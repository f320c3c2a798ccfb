"""Connects while another thread makes a cgroup below its own, into which a child goes once the call has come to its end.

Prints what the call came to, and what the child said there.
"""

import os
import socket
import subprocess
import sys
import threading
import time

MOUNT, PORT = sys.argv[1], int(sys.argv[2])


def own_cgroup():
    with open("/proc/self/cgroup") as cgroups:
        return next(line.rstrip()[3:] for line in cgroups if line.startswith("0::"))


CGROUP = MOUNT + own_cgroup()


def is_held():
    with open(f"/proc/self/task/{threading.main_thread().native_id}/cgroup") as cgroup:
        return "enforcer-hold-" in cgroup.read()


def make():
    while not is_held():
        time.sleep(0.01)
    os.mkdir(f"{CGROUP}/own")


maker = threading.Thread(target=make)
maker.start()
with socket.create_connection(("127.0.0.1", PORT)) as stream:
    came = stream.recv(64).decode()
maker.join()
# Until then no cgroup there takes a process.
while any(name.startswith("enforcer-hold-") for name in os.listdir(CGROUP)):
    time.sleep(0.01)


def enter():
    with open(f"{CGROUP}/own/cgroup.procs", "w") as procs:
        procs.write("0")


said = subprocess.run(["sh", "-c", "grep -o /own$ /proc/self/cgroup"], preexec_fn=enter, capture_output=True, text=True)
os.rmdir(f"{CGROUP}/own")
print(came, said.stdout.strip())
