"""Opens a file by the C library, with handlers that restart calls or interrupt them, until each has run.

A child sends the signals, one after the other, while the thread is held, and makes the folder SENT then. Prints what the
calls came to, how often a handler ran, and after how many milliseconds at the latest.
"""

import ctypes
import errno
import json
import mmap
import os
import signal
import struct
import sys
import time

PATH, SENT, HOW = sys.argv[1:]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
SA_RESTART = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)
sent = mmap.mmap(-1, mmap.PAGESIZE)
late = []


class Action(ctypes.Structure):
    """`struct sigaction` of glibc on x86-64."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def handler(_):
    late.append((time.monotonic_ns() - struct.unpack("q", sent[:8])[0]) / 1e6)


def is_held(pid):
    with open(f"/proc/{pid}/cgroup") as cgroup:
        return "enforcer-hold-" in cgroup.read()


def send(to):
    while not is_held(to):
        time.sleep(0.05)
    for number in SIGNALS:
        time.sleep(0.7)
        sent[:8] = struct.pack("q", time.monotonic_ns())
        os.kill(to, number)
    time.sleep(0.7)
    os.mkdir(SENT)


action = Action(ctypes.cast(handler, ctypes.c_void_p), (ctypes.c_ulong * 16)(), 0, None)
action.flags = SA_RESTART if HOW == "restart" else 0
for number in SIGNALS:
    assert libc.sigaction(number, ctypes.byref(action), None) == 0
parent = os.getpid()
child = os.fork()
if child == 0:
    send(parent)
    os._exit(0)
came = []
while not came or (came[-1] == "EINTR" and len(came) < len(SIGNALS)):
    fd = libc.open(PATH.encode(), os.O_RDONLY)
    came.append("ok" if fd >= 0 else errno.errorcode[ctypes.get_errno()])
os.waitpid(child, 0)
print(json.dumps({"came": came, "ran": len(late), "late": max(late, default=None)}))
