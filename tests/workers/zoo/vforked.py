"""Waits, as after vfork(), for a child that never comes to its exec: no SIGSTOP gets there."""

import os
import tempfile
import threading

folder = tempfile.mkdtemp()
fifo = os.path.join(folder, "nobody-writes")
os.mkfifo(fifo)


def tidy():
    # By then the child waits in open().
    os.unlink(fifo)
    os.rmdir(folder)
    print("ready", flush=True)


if os.fork() == 0:
    os.setsid()
    waits = [(os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)]
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=waits)
threading.Timer(0.3, tidy).start()
os.wait()
