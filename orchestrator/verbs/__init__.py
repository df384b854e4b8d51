"""The verbs: what a command line says becomes a call of their steps. Nothing slow is imported."""
