"""The controller of ddp-orch."""

__version__ = "0.1.0"
