"""200 processes, each of which forks and ends again and again; half of them in their own sessions.

Usage: bomb.py [how many] [seconds that each waits in between]
"""

import os
import sys
import time

count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.2
end = time.monotonic() + 120  # should nobody end it
for number in range(count):
    if os.fork() == 0:
        if number % 2:
            os.setsid()
        while time.monotonic() < end:
            time.sleep(pause)
            if os.fork():
                os._exit(0)
        os._exit(0)
print("ready", flush=True)
time.sleep(600)
