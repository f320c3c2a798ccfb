"""An interactive bash with job control on a terminal of its own, which runs the actor with the given action."""

import os
import pty
import sys

ACTION = sys.argv[1]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
os.write(terminal, f"stty -echo; actor '{ACTION}' > /tmp/enforcer-e2e-shell; echo ended $?\n".encode())
os.write(terminal, b"echo came $(cat /tmp/enforcer-e2e-shell); exit\n")
said = b""
while True:
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    if not read:
        break
    said += read
os.waitpid(pid, 0)
sys.stdout.write(said.decode(errors="replace"))
