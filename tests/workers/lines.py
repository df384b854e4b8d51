"""Writes numbered lines to both streams at a steady pace: lines.py BYTES_PER_SECOND [AT_LEAST].

It writes some, and goes on until the file `enough` is in its folder, whose text is the exit code.
`progress` gets a line with the clock at every step, `written.json` what was written in the end.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

STEP = 0.02
per_second = int(sys.argv[1])
# Who is told before its first look that it is enough has written something all the same.
at_least = max(1, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
enough = Path("enough")
sums = {"out": hashlib.sha256(), "err": hashlib.sha256()}
sizes = dict.fromkeys(sums, 0)
number = 0
with open("progress", "wb", 0) as progress:
    while min(sizes.values()) < at_least or not (enough.exists() and enough.read_text()):
        for stream, descriptor in (("out", 1), ("err", 2)):
            block = b""
            while len(block) < per_second * STEP / 2:
                number += 1
                block += b"%s %09d %s\n" % (stream.encode(), number, b"." * (number % 97))
            sums[stream].update(block)
            sizes[stream] += len(block)
            while block:
                block = block[os.write(descriptor, block) :]
        progress.write(b"%f\n" % time.monotonic())
        time.sleep(STEP)
written = {name: {"size": sizes[name], "sha256": sums[name].hexdigest()} for name in sums}
Path("written.json").write_text(json.dumps(written))
sys.exit(int(enough.read_text()))
