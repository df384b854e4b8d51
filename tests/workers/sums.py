"""Adds up with the others, as many numbers at a time as is said, and tells how many they were.

sums.py SECONDS NUMBERS...: a sum that takes longer fails.
"""

import datetime
import os
import sys

import torch
import torch.distributed as dist

print("started in a world of", os.environ["WORLD_SIZE"], flush=True)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=int(sys.argv[1])))
for numbers in map(int, sys.argv[2:]):
    many = torch.ones(numbers)
    dist.all_reduce(many)
    print(f"sum {many[0].item():.0f} of {dist.get_world_size()}: {numbers} numbers", flush=True)
dist.destroy_process_group()
