"""Hints, as they can be typed here."""

from __future__ import annotations

import pytest

from orchestrator.events import Detached, Ended, Failure, Verdict
from orchestrator.hints import explained, typed, typed_end
from orchestrator.plan import Program


@pytest.mark.parametrize(
    ("named", "strays", "run"),
    [
        (None, "down --strays INVENTORY", "down otter -i INVENTORY ends it"),
        (
            "'my hosts.yaml'",
            "down --strays 'my hosts.yaml'",
            "down otter -i 'my hosts.yaml' ends it",
        ),
        ("-H a,b", "down --strays -H a,b", "down otter -H a,b ends it"),
    ],
)
def test_a_hint_names_the_hosts_as_they_were_named(named, strays, run):
    def hint(text):
        found = Verdict(
            id="run.leftover", status="fail", scope="host", host="a", message="", hint=text
        )
        return typed(found, named).hint

    assert hint("down --strays INVENTORY") == strays
    assert hint("down otter -i INVENTORY ends it") == run
    assert hint(None) is None


def failed(message: str = "", hint: str | None = None) -> Ended:
    failure = Failure(
        host="a", rank=0, code=1, signal=None, message=message, tail=(), hint=hint
    )  # fmt: skip
    return Ended(
        run="r", exit_code=100, seconds=1.0, hosts=("a",), why="", failure=failure, survivors=(),
        logs="",
    )  # fmt: skip


LEFT = Detached(run="r", hosts=("a",), time=1.0)


def test_the_hint_to_a_failure_names_them_too():
    end = failed(hint="exec INVENTORY -- x")
    assert typed_end(end, "-H a,b") == failed(hint="exec -H a,b -- x")
    assert (typed_end(end, None), typed_end(LEFT, "x.yaml")) == (end, LEFT)


@pytest.mark.parametrize("missing", ["model", "pkg", "pkg.deep"])
def test_a_script_that_was_sent_without_what_it_imports(tmp_path, monkeypatch, missing):
    for name in ("sub.py", "model.py"):
        (tmp_path / name).touch()
    (tmp_path / "pkg").mkdir()
    monkeypatch.chdir(tmp_path)
    message = f"ModuleNotFoundError: No module named '{missing}'"
    top = missing.partition(".")[0]
    for path in ("sub.py", str(tmp_path / "sub.py")):
        sent = Program(target="sub.py", args=("--lr", "a b"), ships=(path,))
        assert explained(failed(message), sent) == failed(
            message,
            f"only sub.py was sent, and not {top} beside it; put their folder on every host, name "
            "it there as `workdir:`, and: ddp-orch up INVENTORY -m sub -- --lr 'a b'",
        )


def test_what_does_not_lie_beside_the_script_was_not_left_behind(tmp_path):
    (tmp_path / "sub.py").touch()
    sent = Program(target="sub.py", ships=(str(tmp_path / "sub.py"),))
    there = Program(target="/there/sub.py")
    numpy = failed("ModuleNotFoundError: No module named 'numpy'")
    for end, program in (
        (numpy, sent),
        (numpy, there),
        (failed("ValueError: x"), sent),
        (LEFT, sent),
    ):
        assert explained(end, program) == end
