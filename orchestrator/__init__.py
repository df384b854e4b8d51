"""The controller of ddp-orch."""
