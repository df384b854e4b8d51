"""Holds a TCP port, and ignores SIGTERM. Usage: port_holder.py PORT (of local rank 0)."""

import os
import signal
import socket
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", int(sys.argv[1]) + int(os.environ.get("LOCAL_RANK", "0"))))
server.listen()
print("ready", flush=True)
time.sleep(600)
