"""`python -m orchestrator` is ddp-orch."""

from orchestrator.cli import main

main()
