"""What became of hosts that were told to end what earlier jobs left, as values and words. Pure.

"gone" is said of what was looked for again and not found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orchestrator import errors
from orchestrator.survivors import Survivor, survivor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Outcome: TypeAlias = Literal["gone", "nothing", "survivors", "unreachable", "failed"]
AGAIN = "the same command again"


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What became of the strays of one host."""

    host: str
    outcome: Outcome
    ended: int = 0
    survivors: tuple[Survivor, ...] = ()
    message: str = ""
    hint: str | None = None


def read_end(answer: Any) -> tuple[int, tuple[Survivor, ...]]:  # noqa: ANN401  JSON
    """Read how many a host has ended, and who lives on; ValueError where it makes no sense."""
    try:
        return int(answer["ended"]), tuple(map(survivor, answer["survivors"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError("its answer makes no sense") from None


# ---- in words ----


def sentence(host: Cleared) -> str:
    """Say it in one line; the survivors have lines of their own."""
    match host.outcome:
        case "gone":
            said = f"gone ({_processes(host.ended)})"
        case "nothing":
            said = "nothing is left there"
        case "survivors":
            said = f"NOT gone: {_processes(len(host.survivors))} could not be ended"
        case "unreachable":
            said = f"not reached: {host.message}"
        case "failed":
            said = f"NOT gone: {host.message}"
    return f"{host.host}: {said}"


def hint(host: Cleared) -> str | None:
    """Say what can be done."""
    match host.outcome:
        case "survivors":
            if any(one.why.startswith("belongs to") for one in host.survivors):
                pids = " ".join(str(one.pid) for one in host.survivors)
                return f"on {host.host}, as root: kill -9 {pids}"
            return f"once what holds it is gone: {AGAIN}"
        case "unreachable":
            first = host.hint or ""
            if first and not first.endswith("?"):
                first += ";"
            return f"{first} {AGAIN}, when it can be reached".lstrip()
        case "failed":
            return host.hint or f"look there, then {AGAIN}"
        case _:
            return None


def summary(hosts: Sequence[Cleared]) -> str:
    """Say of all hosts whether anything is left."""
    open_ = [host.host for host in hosts if host.outcome not in ("gone", "nothing")]
    if open_:
        return f"NOT known to be gone on {', '.join(open_)}"
    ended = sum(host.ended for host in hosts)
    return f"strays: gone ({_processes(ended)})" if ended else "nothing is left on these hosts"


def exit_code(hosts: Iterable[Cleared]) -> int:
    """As `down`'s: an unreachable host is 4, whatever else there is; what is left is 100."""
    outcomes = {host.outcome for host in hosts}
    if "unreachable" in outcomes:
        return errors.HOST
    return errors.OK if outcomes <= {"gone", "nothing"} else errors.JOB_FAILED


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


# ---- as programs read it ----


def as_json(host: Cleared) -> dict[str, Any]:
    """One object per host; keys are only ever added."""
    return {
        "host": host.host,
        "outcome": host.outcome,
        "processes": host.ended,
        "survivors": [asdict(one) for one in host.survivors],
        "message": host.message,
        "hint": hint(host),
    }


def summary_json(hosts: Sequence[Cleared]) -> dict[str, Any]:
    return {
        "summary": {
            "hosts": len(hosts),
            "processes": sum(host.ended for host in hosts),
            "survivors": sum(len(host.survivors) for host in hosts),
            "exit_code": exit_code(hosts),
        }
    }
