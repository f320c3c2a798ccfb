"""Opens a file by the C library, with a handler of SIGUSR1 that restarts calls or interrupts them."""

import ctypes
import errno
import json
import os
import sys

PATH, HOW = sys.argv[1:]
SIGUSR1 = 10
SA_RESTART = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)
ran = 0


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
    global ran
    ran += 1


action = Action(ctypes.cast(handler, ctypes.c_void_p), (ctypes.c_ulong * 16)(), 0, None)
action.flags = SA_RESTART if HOW == "restart" else 0
assert libc.sigaction(SIGUSR1, ctypes.byref(action), None) == 0
fd = libc.open(PATH.encode(), os.O_RDONLY)
came = "ok" if fd >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps({"came": came, "ran": ran}))
