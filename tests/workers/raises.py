"""One rank raises; the others sit outside any collective and would wait for ever."""

import os
import sys
import time

rank = int(os.environ["RANK"])
print(f"rank {rank} begins", flush=True)
if rank == int(sys.argv[1]):
    for line in range(200):
        print(f"last words {line}", file=sys.stderr)
    raise ValueError("the data is broken")
time.sleep(3600)
