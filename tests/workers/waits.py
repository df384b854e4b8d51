"""Say a line, then wait until a file is there."""

import os
import sys
import time

print("waiting", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
