"""One HOME for several hosts, as on most clusters: each node's record is there for all to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosts import test_links
from tests.hosts.cluster import Cluster
from tests.hosts.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """In place of the one with a home for each."""
    addresses = ("10.77.0.9", "10.77.0.10")
    with Cluster(tmp_path_factory.mktemp("shared"), addresses, shared_home=True) as cluster:
        yield cluster


user = test_links.user
test_a_run_ends_while_the_link_is_down = test_links.test_a_run_ends_while_the_link_is_down
test_two_controllers_get_everything = test_links.test_two_controllers_get_everything


def test_only_its_own_host_ends_a_node(cluster: Cluster) -> None:
    job = Job(cluster, "apart", cluster.hosts)
    job.detached()
    swapped = [str(job.folder(rank)) for rank in (1, 0)]
    for answer in job.ask("stopping.stop", swapped, grace=5.0):
        assert answer["state"] == "elsewhere"
        assert not answer["verified"]
    job.goes_on()
    job.finish()
    with job.controller(job.attach_words()) as attached:
        attached.wait(0)
    job.everything_is_in(job.logs)


def test_a_node_whose_keepers_are_dead_is_ended_with_the_other(cluster: Cluster) -> None:
    job = Job(cluster, "lost", cluster.hosts)
    with job.controller(job.up_words(200_000)) as up:
        up.says("all workers run")
        job.kill_keepers(1)
        up.says("n2: its supervisor was killed; the job runs on, on its own")
        job.goes_on()
        job.taken_down()
        up.wait(103)
    assert "stopping everywhere: taken down by" in up.output


def test_a_host_that_was_restarted_is_no_other_host(cluster: Cluster) -> None:
    """Nor are its pids those of the record: nothing is signalled there."""
    job = Job(cluster, "rebooted", cluster.hosts)
    job.detached()
    cluster["n2"].reboot()
    job.goes_on([0])
    assert cluster["n2"].pids() == {}
    with job.controller(job.attach_words()) as attached:
        attached.wait(100)
    assert "n2 ended: the host was restarted" in attached.output, attached.plain()
    job.nothing_runs()
