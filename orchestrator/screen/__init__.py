"""Shows what happens, to people at a terminal and to programs. The one place that writes."""

from orchestrator.screen.lists import (
    DownJson,
    DownLines,
    StrayJson,
    StrayLines,
    confirm,
    confirm_down,
    confirm_here,
    confirm_strays,
    show_checks,
    show_plan,
    show_pruned,
    show_runs,
    show_runs_as_json,
)
from orchestrator.screen.people import Screen, show_event
from orchestrator.screen.programs import JsonLines, JsonLog, JsonVerdicts
from orchestrator.screen.redrawn import make_way
from orchestrator.screen.terminal import (
    asker,
    show_error,
    show_lines,
    show_text,
    show_warning,
    whole,
)

__all__ = [
    "DownJson",
    "DownLines",
    "JsonLines",
    "JsonLog",
    "JsonVerdicts",
    "Screen",
    "StrayJson",
    "StrayLines",
    "asker",
    "confirm",
    "confirm_down",
    "confirm_here",
    "confirm_strays",
    "make_way",
    "show_checks",
    "show_error",
    "show_event",
    "show_lines",
    "show_plan",
    "show_pruned",
    "show_runs",
    "show_runs_as_json",
    "show_text",
    "show_warning",
    "whole",
]
