"""A service: a thread opens two files, one after the other, and notes that it has; the process waits for it."""

import sys
import threading

FOLDER = sys.argv[1]


def work():
    for number in ("1", "2"):
        with open(f"{FOLDER}/asked-{number}"):
            open(f"{FOLDER}/done-{number}", "w").close()


worker = threading.Thread(target=work)
worker.start()
worker.join()
