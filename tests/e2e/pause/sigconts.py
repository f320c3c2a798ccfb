# Connects while another thread sends SIGCONTs to the program and to the thread. Prints what the call came to, how many
# signals were sent, and what the parent saw.
import ctypes

SYS_TGKILL = 234
libc = ctypes.CDLL(None, use_errno=True)


def child():
    sent = 0
    done = threading.Event()

    def send(thread):
        nonlocal sent
        while not done.wait(0.001):
            os.kill(os.getpid(), signal.SIGCONT)
            libc.syscall(SYS_TGKILL, os.getpid(), thread, signal.SIGCONT)
            sent += 2

    sender = threading.Thread(target=send, args=(threading.get_native_id(),))
    sender.start()
    came = connect()
    done.set()
    sender.join()
    return {"came": came, "sent": sent}


print(json.dumps(watch(child)))
