"""What the hosts said of themselves, and what was found out between them. Plain values."""

from orchestrator.facts.cluster import ClusterFacts
from orchestrator.facts.code import Code, Commit, Content, Wanted
from orchestrator.facts.conditions import Conditions, Group, Limit, Memory, Session
from orchestrator.facts.disk import Disk, StateFolder
from orchestrator.facts.host import HostFacts, Interpreter
from orchestrator.facts.login import Clock, SshState
from orchestrator.facts.mesh import Dialled, Listening, Named
from orchestrator.facts.network import InfinibandPort, Interface, Interfaces, Network
from orchestrator.facts.smi import Smi
from orchestrator.facts.strays import Strays
from orchestrator.facts.told import understood

__all__ = [
    "Clock",
    "ClusterFacts",
    "Code",
    "Commit",
    "Conditions",
    "Content",
    "Dialled",
    "Disk",
    "Group",
    "HostFacts",
    "InfinibandPort",
    "Interface",
    "Interfaces",
    "Interpreter",
    "Limit",
    "Listening",
    "Memory",
    "Named",
    "Network",
    "Session",
    "Smi",
    "SshState",
    "StateFolder",
    "Strays",
    "Wanted",
    "understood",
]
