"""The verb `logs`: what a run's processes have written, from the record here or from its hosts.

Where this machine has seen the run's end all of it is here, and no host is asked; but when a line
was written only its host knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inventory.names import folded
from orchestrator import errors
from orchestrator.emit import MaskedLogs
from orchestrator.errors import DdpOrchError, NoSuchRun
from orchestrator.fetch import copied, fetched
from orchestrator.logs_here import check_ranks, files_here, is_whole, of_record, show_from_here
from orchestrator.logs_there import LogHosts
from orchestrator.tailing import Tailing, Telling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.fetch import Brought
    from orchestrator.loglines import Wanted
    from orchestrator.logs_here import Subject
    from orchestrator.logs_there import Asked, Say
    from orchestrator.run import Options
    from orchestrator.tailing import LogSink


def logs(
    asked: Asked, wanted: Wanted, options: Options, sink: LogSink, say: Say, *, by_line: bool
) -> int:
    """Show the lines that are wanted; all that can be had, where some hosts cannot be reached."""
    tell = Telling(sink, MaskedLogs(options.mask), by_line=by_line)
    if asked.whole and is_whole(asked.whole) and wanted.since is None:
        subject = of_record(asked.whole, wanted)
        _check(asked, subject, wanted, say)
        sink.begin(subject.name, subject.hosts)
        show_from_here(subject, subject.hosts, wanted, tell)
        return errors.OK
    with LogHosts(asked, wanted, options, say) as there:
        subject = there.subject
        _check(asked, subject, wanted, say)
        sink.begin(subject.name, subject.hosts)
        here = files_here(subject, there.failed, wanted)
        if here and wanted.since is not None:
            nodes = {file.node for file in here}
            hosts = folded(node.host for node in subject.nodes if node.rank in nodes)
            what = "when the lines were written is not known here: all are shown"
            say(DdpOrchError(what, host=hosts))

        def from_here(host: str) -> None:
            show_from_here(subject, [host], wanted, tell)

        tailing = Tailing(there.fleet, subject.asked, wanted, tell, say)
        if wanted.on:
            for host in there.failed:
                from_here(host)
            tailing.to_the_end()
        else:
            tailing.in_turn(subject.hosts, from_here)
        return exit_code(subject, {**there.failed, **tailing.failed})


def fetch(
    asked: Asked, wanted: Wanted, options: Options, folder: Path | None, say: Say
) -> tuple[Brought, int]:
    """Bring the raw files to a folder here, as they are now."""
    if asked.whole and is_whole(asked.whole):
        subject = of_record(asked.whole, wanted)
        _check(asked, subject, wanted, say)
        return copied(subject, wanted, folder), errors.OK
    with LogHosts(asked, wanted, options, say) as there:
        _check(asked, there.subject, wanted, say)
        brought, failed = fetched(there.fleet, there.subject, wanted, folder, say)
        return brought, exit_code(there.subject, {**there.failed, **failed})


def _check(asked: Asked, subject: Subject, wanted: Wanted, say: Say) -> None:
    if asked.name is None:
        say(DdpOrchError(f"the newest run is {subject.name}"))
    check_ranks(subject, wanted)


def exit_code(subject: Subject, failed: Mapping[str, DdpOrchError]) -> int:
    """Say whether something is missing: all of it by all hosts' word, or a part."""
    if not failed:
        return errors.OK
    gone = all(isinstance(error, NoSuchRun) for error in failed.values())
    return errors.NO_SUCH_RUN if gone and failed.keys() >= set(subject.hosts) else errors.HOST
