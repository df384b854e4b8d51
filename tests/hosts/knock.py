"""Knocks at hosts for test_trust, from the controller's namespace: a host a line, as JSON."""

from __future__ import annotations

import json
import logging
import sys

from inventory.model import Host
from orchestrator.errors import HostError
from orchestrator.host.connect import all_doors, connect
from orchestrator.host.target import resolve


class Patient:
    def enter(self, stage, seconds):
        pass

    def hold(self, closable):
        pass


def knock(fields: dict, doors) -> dict:
    try:
        connect(resolve(Host(**fields)), doors, Patient()).close()
    except HostError as error:
        return {"check": error.check, "message": error.message, "hint": error.hint}
    return {"check": None, "message": "", "hint": None}


if __name__ == "__main__":
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    for line in sys.stdin:
        asked = json.loads(line)
        doors = all_doors(accept_new=asked["accept_new"])
        answers = [knock(fields, doors) for fields in asked["hosts"]]
        told = {"answers": answers, "warnings": doors.known.warnings}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
