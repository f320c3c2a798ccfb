# One thread of a child connects; its others count, make children and take signals meanwhile. Prints what was seen, and how
# many SIGCHLDs the parent had.
def child():
    seen = {"counted": 0, "forked": 0, "forked_wrong": 0, "alarms": 0}
    done = threading.Event()

    def talk():
        seen["came"] = connect()
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
    threads = [threading.Thread(target=work) for work in (talk, count, fork)]
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
    return seen


children = 0


def sigchld(*_):
    global children
    children += 1


signal.signal(signal.SIGCHLD, sigchld)
said = watch(child)
print(json.dumps({**said, "sigchld": children}))
