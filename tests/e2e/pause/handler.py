# Connects with a handler for SIGCONT. Prints what the call came to, how often the handler ran, and what the parent saw.
def child():
    ran = 0

    def handled(*_):
        nonlocal ran
        ran += 1

    signal.signal(signal.SIGCONT, handled)
    came = connect()
    return {"came": came, "ran": ran}


print(json.dumps(watch(child)))
