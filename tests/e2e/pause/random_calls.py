"""Makes calls of random kinds that wait, beside forks, sleeps and threads that end.

The last digit of each object says what it is answered with: an even one is allowed, an odd one refused. Prints how many
calls came to what they should have.
"""

import errno
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

FOLDER, CALLS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
THREADS = 8
lock = threading.Lock()
right, wrong = 0, []
number = 0
done = threading.Event()


def opened(path, flags):
    os.close(os.open(path, flags, 0o644))


def read(at):
    path = f"{FOLDER}/asked-r{at}"
    # Made under another name, which nobody asks for.
    with open(f"{FOLDER}/made-{at}", "w") as file:
        file.write("text\n")
    os.rename(f"{FOLDER}/made-{at}", path)
    opened(path, os.O_RDONLY)


def create(at):
    path = f"{FOLDER}/asked-c{at}"
    try:
        opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except OSError:
        assert not os.path.exists(path), path
        raise
    assert os.path.exists(path), path


def execute(at):
    path = f"{FOLDER}/run-{at}"
    os.link(f"{FOLDER}/true", path)
    assert subprocess.run([path]).returncode == 0


def connect(at):
    with socket.socket() as stream:
        try:
            stream.connect(("127.0.0.7", 20000 + at))
        except ConnectionRefusedError:
            # Nobody listens there: it went out.
            pass


def send(at):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.8", 20000 + at))


def work(rng):
    global number, right
    kinds = (read, create, execute, connect, send)
    while True:
        with lock:
            if number == CALLS:
                return
            number += 1
            at = number
        kind = rng.choice(kinds)
        expected = "ok" if at % 2 == 0 else "EPERM"
        try:
            kind(at)
            came = "ok"
        except OSError as error:
            came = errno.errorcode.get(error.errno, str(error.errno))
        except AssertionError as error:
            came = f"half done: {error}"
        with lock:
            if came == expected:
                right += 1
            else:
                wrong.append([kind.__name__, at, came])
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.05)


def fork():
    while not done.is_set():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.05)


def come_and_go():
    while not done.is_set():
        thread = threading.Thread(target=time.sleep, args=(0.01,))
        thread.start()
        thread.join()


def main():
    import shutil

    shutil.copy("/bin/true", f"{FOLDER}/true")
    beside = [threading.Thread(target=fork), threading.Thread(target=come_and_go)]
    workers = [threading.Thread(target=work, args=(random.Random(SEED + at),)) for at in range(THREADS)]
    for thread in beside + workers:
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    for thread in beside:
        thread.join()
    print(json.dumps({"right": right, "wrong": wrong}))


main()
