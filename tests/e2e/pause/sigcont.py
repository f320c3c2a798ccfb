"""Opens a file, with a handler of SIGCONT. Prints how often that ran."""

import os
import signal
import sys

ran = 0


def handled(*_):
    global ran
    ran += 1


signal.signal(signal.SIGCONT, handled)
os.close(os.open(sys.argv[1], os.O_RDONLY))
print("ok", ran)
