"""Processes with threads that each send to a port of their own: the even ones are allowed, the others refused.

The parent waits for every change of its children. Prints how many ended as they should.
"""

import json
import os
import socket
import sys
import threading

PROCESSES, THREADS = int(sys.argv[1]), int(sys.argv[2])
FIRST = 20000


def send(port, came):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"hello", ("127.0.0.7", port))
            came[port] = "ok"
        except OSError as error:
            came[port] = error.errno


def child(at, to):
    came = {}
    threads = []
    for number in range(THREADS):
        port = FIRST + at * THREADS + number
        threads.append(threading.Thread(target=send, args=(port, came)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os.write(to, json.dumps(came).encode())
    os._exit(0)


def main():
    from_children, pids = [], set()
    for at in range(PROCESSES):
        from_child, to_parent = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(at, to_parent)
        os.close(to_parent)
        from_children.append(from_child)
        pids.add(pid)
    stops = 0
    while pids:
        pid, status = os.waitpid(-1, os.WUNTRACED | os.WCONTINUED)
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            stops += 1
        else:
            pids.discard(pid)
    right, wrong = 0, []
    for from_child in from_children:
        for port, came in json.loads(os.read(from_child, 65536)).items():
            expected = "ok" if int(port) % 2 == 0 else 1
            if came == expected:
                right += 1
            else:
                wrong.append([port, came])
    print(json.dumps({"right": right, "wrong": wrong, "stops": stops}))


main()
