"""Says its secrets, in every way that a script may; with a rank in its arguments that one fails.

The other argument is where the controller keeps this worker's output: the halves of a token are
written apart, the second one once the first has been brought there.
"""

import json
import os
import sys
import time

token, key = os.environ["TOKEN"], os.environ["KEY"]
rank = os.environ["RANK"]
logs, failing = sys.argv[1:]
kept = os.path.join(logs, f"rank{rank}.out")


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


say(f"token {token} and {token!r}\n")
say(f"key {key}\n")
say(json.dumps({"token": token, "key": key}) + "\n")
print(f"on stderr {token}", file=sys.stderr, flush=True)
say(f"half {token[:9]}")
size = os.fstat(1).st_size
while not (os.path.exists(kept) and os.path.getsize(kept) == size):
    time.sleep(0.01)
say(token[9:] + " whole\n")
if rank == failing:
    from torch.distributed.elastic.multiprocessing.errors import record

    @record
    def main():
        raise ValueError(f"refused: {token}")

    main()
if failing != "none":
    time.sleep(3600)
