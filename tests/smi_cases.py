"""What nvidia-smi says, from files: real forms of several drivers and cards, and of failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases/smi"
NAMES = sorted(path.name for path in CASES.iterdir())


def asked(name: str) -> dict[str, Any]:
    """Return a file as the answer to one question."""
    fields, code, out = [], None, []
    for line in (CASES / name).read_text().splitlines():
        word, _, rest = line.removeprefix("# ").partition(": ")
        if not line.startswith("#"):
            out.append(line)
        elif word == "fields":
            fields = rest.split()
        elif word == "code":
            code = int(rest)
    assert fields
    assert code is not None
    return {
        "ended": "answered",
        "code": code,
        "out": "\n".join(out) + "\n",
        "err": "",
        "fields": fields,
        "program": "/usr/bin/nvidia-smi",
    }


APPS = ["gpu_uuid", "pid", "used_memory", "process_name"]


def apps(*rows: str) -> dict[str, Any]:
    out = "".join(f"{row}\n" for row in rows)
    return {"ended": "answered", "code": 0, "out": out, "err": "", "fields": APPS}


def told(name: str | None = None, *rows: str, **parts: Any) -> dict[str, Any]:
    """Return a whole answer of a host, with processes on its GPUs as rows."""
    whole: dict[str, Any] = {
        "gpus": asked(name) if name else {"ended": "absent"},
        "apps": apps(*rows) if name else {"ended": "absent"},
        "driver": {"version": None, "gpus": [], "pci": [], "control": "ok", "memory": "ok"},
        "fabric": {"switches": 0, "manager": False},
        "processes": {},
        "visible": None,
    }
    return whole | parts


def process(program: str = "/opt/venv/bin/python", **changes: Any) -> dict[str, Any]:
    return {
        "user": "alice",
        "ours": False,
        "program": program,
        "command": f"{program} train.py",
        "seconds": 7300.0,
        "run": None,
    } | changes


def known(bus: str, device: str | None = "ok", *, excluded: bool = False) -> dict[str, Any]:
    """Return a GPU as the driver has it."""
    return {"bus": bus, "model": "NVIDIA H100", "excluded": excluded, "device": device}


UUIDS = [f"GPU-5a1c0d00-0000-4000-8000-00000000000{i}" for i in range(8)]
