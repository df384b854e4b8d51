"""Writes numbered lines on both outputs, then waits for a file, and ends without a newline."""

import os
import sys
import time

count, go = int(sys.argv[1]), sys.argv[2:]
rank = os.environ["RANK"]
token = os.environ.get("TOKEN", "none")
for number in range(count):
    print(f"rank {rank} line {number}", flush=True)
    if number % 2 == 0:
        print(f"rank {rank} error {number}", file=sys.stderr, flush=True)
print(f"token {token} käse \x1b]0;title\x07", flush=True)
while go and not os.path.exists(go[0]):
    time.sleep(0.05)
print("the end", end="", flush=True)
