"""A small CNN learns handwritten digits under DDP. Copy this file and digits.bin.gz, and change it.

    torchrun --standalone --nproc-per-node 2 train.py       # one machine, two workers
    torchrun --nnodes 3 --rdzv-backend c10d ... train.py    # the same file on three machines
    python train.py                                         # no DDP: one process

It needs torch 2.6 or newer and nothing else: no numpy, no torchvision, no download.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import socket
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

with warnings.catch_warnings():  # torch says that numpy is missing; nothing here needs it
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.elastic.multiprocessing.errors import record
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

BACKENDS = ("auto", "gloo", "nccl")  # auto: nccl if this host has a GPU for each of its ranks


def at_least_1(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def seed_number(text: str) -> int:
    if not 0 <= int(text) < 2**31:  # leaves room for the step beside it, see the loop
        raise ValueError
    return int(text)


def above_0(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def say(line: str) -> None:
    """Print in one write: torchrun's workers are unbuffered, and print() would write twice."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@record  # hands an exception's text to torchrun, which can then name the rank and the reason
def main() -> None:
    # ---- knobs: a line each ----------------------------------------------------------------
    run_dir = os.environ.get("DDP_ORCH_RUN_DIR")
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options]  (--help lists them)",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    knob = parser.add_argument
    knob("--steps", type=at_least_1, default=300, help="optimizer steps")
    knob("--batch-size", type=at_least_1, default=64, help="images per step, all ranks together")
    knob("--lr", type=above_0, default=5e-3, help="peak learning rate")
    knob("--warmup", type=at_least_1, default=20, help="steps up to the peak; then a cosine to 0")
    knob("--weight-decay", type=float, default=0.01, help="decay of the weights by AdamW")
    knob("--seed", type=seed_number, default=0, help="decides first weights and data order")
    knob("--log-every", type=at_least_1, default=20, help="steps between lines on the screen")
    knob("--backend", choices=BACKENDS, default="auto", help="gloo is CPU, nccl is GPU")
    knob("--timeout", type=above_0, default=300, help="seconds to wait for a silent rank")
    knob("--metrics", default=run_dir and f"{run_dir}/metrics.jsonl", help="a JSON line per step")
    args = parser.parse_args()

    # ---- who am I: torchrun tells each worker through its environment ----------------------
    distributed = "RANK" in os.environ
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    backend = args.backend
    if backend == "auto":  # all ranks must come to the same answer: say it where hosts differ
        backend = "nccl" if gpus >= local_world and dist.is_nccl_available() else "gloo"
    if backend == "nccl" and local_rank >= gpus:
        parser.error(f"--backend nccl: local rank {local_rank} needs a GPU, this host has {gpus}")
    device = torch.device("cuda", local_rank) if backend == "nccl" else torch.device("cpu")
    say(f"rank {rank} of {world}: host {socket.gethostname()}, device {device}, backend {backend}")
    metrics = None
    if rank == 0 and args.metrics:
        try:  # "w": there are no checkpoints, so a restart begins at step 1 again
            metrics = Path(args.metrics).open("w", buffering=1)  # noqa: SIM115 - open to the end
        except OSError as error:
            parser.error(f"--metrics: {error}")

    # ---- data: 1797 rows of 64 pixels (0 to 16) and a label; every fifth is held out -------
    packed = Path(__file__).with_name("digits.bin.gz").read_bytes()
    rows = torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8).view(-1, 65)
    images = (rows[:, :64].float() / 16).view(-1, 1, 8, 8).to(device)
    labels = rows[:, 64].long().to(device)
    held_out = torch.arange(len(rows)) % 5 == 4
    train_images, train_labels = images[~held_out], labels[~held_out]

    # ---- model: 35,578 parameters. GroupNorm, because BatchNorm would see one rank's slice ---
    torch.manual_seed(args.seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    ).to(device)  # fmt: skip

    # ---- DDP: meet the other ranks, start from rank 0's weights, average every gradient ----
    net: nn.Module = model
    if distributed:
        gpu = device if device.type == "cuda" else None
        dist.init_process_group(backend, timeout=timedelta(seconds=args.timeout), device_id=gpu)
        net = DistributedDataParallel(model, device_ids=[local_rank] if gpu else None)

    # ---- the loop --------------------------------------------------------------------------
    # DDP averages over ranks, which averages over images only if all ranks take equally many.
    # So a batch that the world does not divide is rounded up: 64 on 3 ranks is 3 times 22.
    share = math.ceil(args.batch_size / world)
    batch_size = share * world
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    started = time.perf_counter()
    step_started = started
    for step in range(1, args.steps + 1):
        # The batch is a function of (seed, step) alone; each rank draws it all, takes its slice.
        order = torch.Generator().manual_seed((args.seed << 32) + step)
        batch = torch.randint(len(train_labels), (batch_size,), generator=order)
        mine = batch[rank * share : (rank + 1) * share].to(device)

        warm, done = min(1.0, step / args.warmup), (step - 1) / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (1 + math.cos(math.pi * done)) / 2

        loss = cross_entropy(net(train_images[mine]), train_labels[mine])
        optimizer.zero_grad()
        loss.backward()  # DDP averages the gradients in here
        optimizer.step()

        loss = loss.detach()
        if distributed:
            dist.all_reduce(loss)
        mean_loss = loss.item() / world
        if not math.isfinite(mean_loss):
            raise ValueError(f"the loss is {mean_loss} at step {step}: try --lr below {args.lr}")
        now = time.perf_counter()
        seconds, step_started = now - step_started, now
        if metrics:
            line = {"step": step, "loss": mean_loss, "seconds": round(seconds, 6)}
            line |= {"samples_per_s": round(batch_size / seconds, 1), "world_size": world}
            metrics.write(json.dumps(line) + "\n")
        if rank == 0 and (step == 1 or step % args.log_every == 0 or step == args.steps):
            rate = step * batch_size / (now - started)
            say(f"step {step}/{args.steps}  loss {mean_loss:.4f}  {rate:.0f} images/s")

    # ---- the end: equal weights everywhere, and how good they are --------------------------
    if distributed:
        bits = torch.stack([p.detach().view(torch.int32).sum() for p in model.parameters()])
        everyones = [torch.empty_like(bits) for _ in range(world)]
        dist.all_gather(everyones, bits)
        if not all(torch.equal(bits, other) for other in everyones):
            raise RuntimeError("the ranks ended with different parameters")
    if rank == 0:
        model.eval()
        with torch.no_grad():
            right = model(images[held_out]).argmax(1) == labels[held_out]
        say(f"parameters: equal on {world} ranks")
        say(f"accuracy: {right.float().mean().item():.4f}")
    if metrics:
        metrics.close()
    if distributed:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # All is done and written. Do not let Python tear itself down: DDP keeps gloo's threads alive
    # (torch 2.13), and one that still holds a tensor by then aborts the process, 1 run in 4 with
    # more ranks than cores. What you add and registers with atexit must be called before this.
    sys.stdout.flush()
    os._exit(0)
