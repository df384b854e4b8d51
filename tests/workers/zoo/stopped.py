"""Is stopped, and so is its child: neither heeds anything but SIGKILL."""

import os
import signal
import time

child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
    os._exit(0)
os.waitpid(child, os.WUNTRACED)
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
