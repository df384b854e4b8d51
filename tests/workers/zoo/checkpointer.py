"""Saves its work when it is told to end, which takes a while, and then ends with code 7.

Usage: checkpointer.py [seconds]
"""

import os
import signal
import sys
import time

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0


def save(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    line = 0
    while time.monotonic() < end:
        print(f"saving {line}", flush=True)
        line += 1
        time.sleep(0.05)
    print("saved", flush=True)
    os._exit(7)


signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(600)
