"""Opens a path that another thread writes another path over while the call waits."""

import ctypes
import errno
import os
import sys
import threading
import time

first, second, swapped = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
path = ctypes.create_string_buffer(first.encode(), 4096)


def swap():
    time.sleep(1)
    ctypes.memmove(path, second.encode() + b"\0", len(second) + 1)
    os.mkdir(swapped)


threading.Thread(target=swap).start()
fd = libc.open(path, os.O_RDONLY)
print("ok" if fd >= 0 else errno.errorcode[ctypes.get_errno()])
