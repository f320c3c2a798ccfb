"""Starts a program by `posix_spawn` or after `vfork`, and tells how it ended."""

import errno
import os
import subprocess
import sys

PATH, HOW = sys.argv[1:]
try:
    if HOW == "spawn":
        _, status = os.waitpid(os.posix_spawn(PATH, [PATH], os.environ), 0)
        code = os.waitstatus_to_exitcode(status)
    else:
        code = subprocess.run([PATH], close_fds=False).returncode
    print("exit", code)
except OSError as error:
    print(errno.errorcode[error.errno])
