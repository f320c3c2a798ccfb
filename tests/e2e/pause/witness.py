"""A parent that waits for every change of its child, one thread of which waits for an answer.

The child's other threads count, make children and take signals meanwhile. Prints what was seen.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

PORT = int(sys.argv[1])


def child(to):
    seen = {"counted": 0, "forked": 0, "forked_wrong": 0, "alarms": 0}
    done = threading.Event()

    def connect():
        with socket.create_connection(("127.0.0.1", PORT)) as stream:
            seen["came"] = stream.recv(64).decode()
        done.set()

    def count():
        while not done.is_set():
            seen["counted"] += 1
            time.sleep(0.005)

    def fork():
        while not done.is_set():
            pid = os.fork()
            if pid == 0:
                os.execv("/bin/sh", ["sh", "-c", "exit 3"])
            _, status = os.waitpid(pid, 0)
            seen["forked"] += 1
            seen["forked_wrong"] += os.waitstatus_to_exitcode(status) != 3

    def alarm(*_):
        seen["alarms"] += 1

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    threads = [threading.Thread(target=work) for work in (connect, count, fork)]
    for thread in threads:
        # Only this thread takes signals, as a program with a thread for them has it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    while not done.is_set():
        time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threads:
        thread.join()
    os.write(to, json.dumps(seen).encode())
    os._exit(7)


def main():
    children = 0

    def sigchld(*_):
        nonlocal children
        children += 1

    signal.signal(signal.SIGCHLD, sigchld)
    from_child, to_parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child(to_parent)
    statuses = []
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status):
            statuses.append(f"stopped {os.WSTOPSIG(status)}")
        elif os.WIFCONTINUED(status):
            statuses.append("continued")
        else:
            statuses.append(f"exited {os.waitstatus_to_exitcode(status)}")
            break
    seen = json.loads(os.read(from_child, 4096))
    print(json.dumps({**seen, "statuses": statuses, "sigchld": children}))


main()
