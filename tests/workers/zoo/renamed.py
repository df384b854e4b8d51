"""Has a daemon with an empty environment, which calls itself as the kernel's own are called."""

import os
import sys
import time

CHILD = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(15, b"kworker/u8:3", 0, 0, 0)  # PR_SET_NAME
os.write(int(sys.argv[1]), b"x")
time.sleep(600)
"""

told, tell = os.pipe()
os.set_inheritable(tell, True)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve(sys.executable, ["[kworker/u8:3]", "-S", "-c", CHILD, str(tell)], {})
os.wait()
os.read(told, 1)
print("ready", flush=True)
time.sleep(600)
