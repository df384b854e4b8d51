"""Does not want to go: ignores SIGTERM, and has children that left its session and its parents."""

import os
import signal
import subprocess
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM HUP; sleep 3600 & sleep 3600"])
subprocess.Popen(["env", "-i", "/bin/sh", "-c", "setsid sleep 3600 & exec sleep 3600"])
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(3600)
print("ready", os.environ["RANK"], flush=True)
if "then-fail" in sys.argv and os.environ["RANK"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(3600)
