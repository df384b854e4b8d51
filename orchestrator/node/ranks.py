"""Runs inside torchrun: node ranks as assigned, and log files that no later round overwrites.

Shipped to the host as a folder on PYTHONPATH, with the entry points by which torch (2.6 and newer)
finds both; nothing is installed. With the stock c10d rendezvous torchrun ignores --node-rank and
numbers the nodes by the sorted text of their addresses.
"""

# Checked where torch is installed and where it is not; it exports its stores without saying so.
# mypy: allow-subclassing-any, allow-untyped-calls, no-warn-return-any, no-warn-unused-ignores

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

if TYPE_CHECKING:
    from typing import Callable

NAME = "ddp_orch"


class RankedRendezvous(RendezvousHandler):
    """The stock handler forms the world; then its nodes agree on who has which rank.

    Every round gets a master store of its own. It sidesteps two faults of the shared one: restarted
    workers that read the keys of the round before, and a node that joins later and waits for a
    MASTER_ADDR that nobody publishes again.
    """

    def __init__(self, stock: RendezvousHandler, order: int, address: str) -> None:
        self._stock = stock
        self._order = order
        self._address = address
        self._master: TCPStore | None = None

    @property
    def use_agent_store(self) -> bool:
        return True  # the workers are clients of the master store; rank 0 need not open another

    def next_rendezvous(self) -> RendezvousInfo:
        formed = self._stock.next_rendezvous()  # its store is private to this run and round
        store = PrefixStore(NAME, formed.store)
        store.set(f"order/{formed.rank}", str(self._order))
        orders = [int(store.get(f"order/{rank}")) for rank in range(formed.world_size)]
        rank = sorted(range(formed.world_size), key=lambda r: (orders[r], r)).index(formed.rank)
        self._master = None  # frees its port; the workers of the last round have been stopped
        if rank == 0:
            self._master = TCPStore(self._address, 0, is_master=True, wait_for_workers=False)
            store.set("master", f"{self._address} {self._master.port}")
        address, port = store.get("master").decode().split()
        where = RendezvousStoreInfo(address, int(port))
        return RendezvousInfo(formed.store, rank, formed.world_size, where)

    def get_backend(self) -> str:
        return NAME

    def get_run_id(self) -> str:
        return self._stock.get_run_id()

    def is_closed(self) -> bool:
        return self._stock.is_closed()

    def set_closed(self) -> None:
        self._stock.set_closed()

    def num_nodes_waiting(self) -> int:
        return self._stock.num_nodes_waiting()

    def shutdown(self) -> bool:
        self._master = None
        return self._stock.shutdown()


def create_handler(params: RendezvousParameters) -> RankedRendezvous:
    # The master store of a round is ours: the stock one must neither be opened nor be waited for.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    order = params.get_as_int("order")
    if order is None or not params.local_addr:
        raise ValueError(f"--rdzv-backend={NAME} needs --rdzv-conf=order=N and --local-addr")
    stock = RendezvousParameters(
        "c10d",
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **{key: value for key, value in params.config.items() if key != "order"},
    )
    handler = rendezvous_handler_registry.create_handler(stock)
    return RankedRendezvous(handler, order, params.local_addr)


def entry_point() -> Callable[[RendezvousParameters], RankedRendezvous]:
    return create_handler


class RoundLogs(DefaultLogsSpecs):
    """LOG_DIR/ROUND/rRANK.out and .err, straight from the worker: a reader needs no map of them.

    The stock one names the folder by restart count, which a change of membership does not raise: it
    then deletes attempt_0 and writes it anew.
    """

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        root = self.root_log_dir
        turn = 1 + max((int(name) for name in os.listdir(root) if name.isdigit()), default=-1)
        folder = os.path.join(root, str(turn))
        os.mkdir(folder, 0o700)
        path = {local: os.path.join(folder, f"r{env['RANK']}") for local, env in envs.items()}
        for local, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = path[local] + ".error.json"
        return LogsDest(
            stdouts={local: p + ".out" for local, p in path.items()},
            stderrs={local: p + ".err" for local, p in path.items()},
            error_files={local: p + ".error.json" for local, p in path.items()},
        )
