"""Runs programs by `subprocess`, one of which connects, and prints all that it sees of them: exit codes, output, and how
many SIGCHLDs came.
"""

import json
import signal
import subprocess
import sys

ACTION = sys.argv[1]
children = 0


def sigchld(*_):
    global children
    children += 1


signal.signal(signal.SIGCHLD, sigchld)
seen = []
for command in (["actor", ACTION], ["sh", "-c", f"actor '{ACTION}' >&2; exit 5"], ["sh", "-c", "kill -9 $$"]):
    ran = subprocess.run(command, capture_output=True, text=True)
    seen.append([ran.returncode, ran.stdout, ran.stderr])
with subprocess.Popen(["actor", ACTION], stdout=subprocess.PIPE, text=True) as program:
    seen.append([program.stdout.read(), program.wait(timeout=60)])
try:
    subprocess.run(["sleep", "60"], timeout=0.2)
except subprocess.TimeoutExpired as late:
    seen.append(type(late).__name__)
print(json.dumps({"seen": seen, "children": children}))
