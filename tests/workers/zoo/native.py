"""Would end politely, but hangs in native code that never comes back: its handler never runs."""

import ctypes
import signal
import sys
import threading

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
mutex = ctypes.create_string_buffer(64)
libc = ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
threading.Timer(0.2, print, ["ready"], {"flush": True}).start()
libc.pthread_mutex_lock(mutex)  # waits for itself; a signal does not interrupt it
