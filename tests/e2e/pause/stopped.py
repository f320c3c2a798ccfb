# A held child is sent the signal that is named, while another thread of it counts; once it has stopped its parent has it
# go on, and makes a folder then. Prints what the call came to, what the parent saw, after how many seconds it saw the stop,
# and how far the child counted while it was stopped.
import mmap
import struct

SIGNAL, FOLDER = int(sys.argv[2]), sys.argv[3]
shared = mmap.mmap(-1, mmap.PAGESIZE)
seen = {}


def counted():
    return struct.unpack("q", shared[:8])[0]


def child():
    # No stop but SIGSTOP is for a group whose members have no parent in another one of the session.
    os.setpgid(0, 0)
    done = threading.Event()

    def count():
        while not done.wait(0.005):
            shared[:8] = struct.pack("q", counted() + 1)

    counter = threading.Thread(target=count)
    counter.start()
    came = connect()
    done.set()
    counter.join()
    return {"came": came}


def is_held(pid):
    with open(f"/proc/{pid}/cgroup") as cgroup:
        return "enforcer-hold-" in cgroup.read()


def send(pid):
    while not is_held(pid):
        time.sleep(0.05)
    time.sleep(0.2)
    seen["sent"] = time.monotonic()
    os.kill(pid, SIGNAL)


def stopped(pid):
    seen["after"] = time.monotonic() - seen.pop("sent")
    before = counted()
    time.sleep(1)
    seen["counted"] = counted() - before
    os.kill(pid, signal.SIGCONT)


said = watch(child, send, stopped, lambda: os.mkdir(FOLDER))
print(json.dumps({**said, **seen}))
