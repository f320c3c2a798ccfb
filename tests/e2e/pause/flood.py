"""A thread that blocks a signal opens a file and is held, while a child floods the process with that signal, until a file
is there.
"""

import os
import signal
import sys
import threading
import time

PATH, END = sys.argv[1:]


def hold():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.close(os.open(PATH, os.O_RDONLY))


signal.signal(signal.SIGUSR1, lambda *_: None)
threading.Thread(target=hold, daemon=True).start()
parent = os.getpid()
if os.fork() == 0:
    while not os.path.exists(END):
        for _ in range(1000):
            os.kill(parent, signal.SIGUSR1)
    os._exit(0)
while not os.path.exists(END):
    time.sleep(0.01)
os._exit(0)
