"""Says who it is, by its environment; with `fail-first` one rank dies in the first attempt."""

import json
import os
import sys

NAMES = "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE TORCHELASTIC_RESTART_COUNT DDP_ORCH_NODE_RANK"
me = {name: os.environ[name] for name in (*NAMES.split(), "DDP_ORCH_HOSTS", "DDP_ORCH_RUN")}
print(json.dumps(me), flush=True)
if "meet" in sys.argv or "fail-first" in sys.argv:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    one = torch.ones(1)
    dist.all_reduce(one)
    print(f"sum {one.item():.0f}", flush=True)
    if "fail-first" in sys.argv and me["TORCHELASTIC_RESTART_COUNT"] == "0" and me["RANK"] == "1":
        sys.exit(7)
    dist.barrier()
    dist.destroy_process_group()
