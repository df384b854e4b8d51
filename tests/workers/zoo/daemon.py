"""Has a daemon, as daemons are made: two forks, a session of its own, nothing kept open."""

import os
import time

told, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.write(tell, b"x")
    time.sleep(600)
    os._exit(0)
os.wait()
os.read(told, 1)
print("ready", flush=True)
time.sleep(600)
