"""Opens a file, with Python's own handler of SIGINT or with one that returns."""

import os
import signal
import sys

PATH, HOW = sys.argv[1:]


def handled(*_):
    os.mkdir(os.path.join(os.path.dirname(PATH), "handled"))


if HOW == "return":
    signal.signal(signal.SIGINT, handled)
else:
    # What starts in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    os.close(os.open(PATH, os.O_RDONLY))
    print("ok")
except KeyboardInterrupt:
    print("KeyboardInterrupt")
