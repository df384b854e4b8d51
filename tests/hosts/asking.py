"""Ask each host one thing about its node: asking.py INVENTORY OP FOLDERS ARGS, in JSON."""

from __future__ import annotations

import json
import sys

from inventory.load import load
from orchestrator.fleet import Fleet
from orchestrator.host.connect import all_doors
from orchestrator.host.ssh import SshHosts

_, inventory, op, folders, args = sys.argv
hosts = load(inventory).hosts
by_name = {host.name: host for host in hosts}
fleet = Fleet(SshHosts(by_name, all_doors(accept_new=False)), by_name)
fleet.connect(lambda _: [])
pairs = zip(hosts, json.loads(folders), strict=True)
asked = {host.name: {"folder": folder, **json.loads(args)} for host, folder in pairs}
answers = fleet.ask(op, asked, 80)
fleet.close()
for answer in answers.values():
    if isinstance(answer, Exception):
        raise answer
    sys.stdout.write(json.dumps(answer) + "\n")
