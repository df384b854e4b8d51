"""Has a child that forks and ends, and its child the same, as fast as it can.

Usage: hopper.py [sessions], each in a session of its own
"""

import os
import sys
import time

sessions = "sessions" in sys.argv
end = time.monotonic() + 120  # should nobody end it
told, tell = os.pipe()
if os.fork() == 0:
    hops = 0
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        if sessions:
            os.setsid()
        hops += 1
        if hops == 100:
            os.write(tell, b"x")
    os._exit(0)
os.wait()
os.read(told, 1)
print("ready", flush=True)
time.sleep(600)
