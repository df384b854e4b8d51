"""The supervisors' conversation, on real sockets: no test waits for the time it tells of."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import resource
import select
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from orchestrator import boot
from orchestrator.node import peers, ray, record, sealed, star
from tests.test_node_agent import SUPPORTED, python_or_skip

KEY = "0123456789abcdef" * 4
NAMES = ["gpu0", "gpu1", "gpu2", "gpu3"]
NEWS = {"why": "rank 9 on {host} exited with code 7", "exit_code": 100, "time": 1234.5}
LOST_AFTER = 30.0
HELLO = sealed.LENGTH.size


class World:
    """Peers, each driven as its supervisor would, and the one clock they all go by."""

    def __init__(self, folder, address="127.0.0.1"):
        self.folder = folder
        self.address = address
        self.now = 1000.0
        self.driven = []
        self.heard = {}  # by peer
        self.star = self.head()
        self.rays = {}

    def head(self, port=0):
        head = star.Star(self.address, KEY, NAMES, self.now, port)
        return self.drive(head)

    def drive(self, peer):
        self.driven.append(peer)
        self.heard[peer] = []
        return peer

    def ray(self, node, key=None):
        folder = self.folder / str(node)
        folder.mkdir(exist_ok=True)
        key = key or sealed.key_for(KEY, node)
        self.rays[node] = self.drive(ray.Ray(str(folder), key, node, NAMES, self.now))
        return self.rays[node]

    def announce(self, port=None):
        for node in range(len(NAMES)):
            (self.folder / str(node)).mkdir(exist_ok=True)
            place = {"address": self.address, "port": port or self.star.port}
            (self.folder / str(node) / record.PEERS).write_text(json.dumps(place))

    def turn(self, wait=0.0):
        """Have each look once at what is there, and at the clock; return whether there was any."""
        some = False
        for peer in self.driven:
            to_read, to_write = peer.fds()
            assert peer.timeout(self.now) <= LOST_AFTER
            readable, writable, _ = select.select(to_read, to_write, [], wait)
            some = some or bool(readable or writable)
            peer.ready(readable, writable, self.now)
            peer.tick(self.now)
            self.heard[peer] += peer.heard()
        return some

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            self.turn(0.001)

    def settle(self):
        while self.turn() or self.turn(0.0005):
            pass

    def sleep(self, seconds):
        """Let time go by, from one thing that somebody waits for to the next."""
        end = self.now + seconds
        while self.now < end:
            wanted = [peer.timeout(self.now) for peer in self.driven]
            self.now = min([end, *(self.now + max(wait, 0.1) for wait in wanted)])
            self.settle()

    def together(self, *nodes):
        """Have rays of these nodes, connected."""
        self.announce()
        for node in nodes:
            self.ray(node)
        self.until(lambda: self.star.connected == len(nodes) == self.connected())
        return self

    def connected(self):
        return sum(self.rays[node].connected for node in self.rays)

    def all_heard(self):
        return [news for heard in self.heard.values() for news in heard]

    def close(self, peer):
        """End it as its process would: without a word."""
        self.driven.remove(peer)
        peer.close()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    for peer in [*world.driven]:
        world.close(peer)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["127.0.0.1", "::1"])
def either(request, tmp_path):
    if request.param == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    world = World(tmp_path, request.param)
    yield world
    for peer in [*world.driven]:
        world.close(peer)


# ---- bad ends ----


def told_by(node):
    words = {"why": f"rank 9 on {NAMES[node]} exited with code 7", "host": NAMES[node]}
    return {**NEWS, **words, "node": node}


def test_one_node_s_bad_end_is_heard_by_the_head_and_all_others(either):
    either.together(1, 2, 3)
    either.rays[2].tell(NEWS)
    assert either.rays[2].timeout(either.now) == 0
    either.until(lambda: either.rays[2].settled and either.star.settled)
    either.settle()
    heard = {peer.node: either.heard[peer] for peer in either.driven}
    assert heard == {0: [told_by(2)], 1: [told_by(2)], 2: [], 3: [told_by(2)]}


def test_the_head_s_bad_end_is_heard_by_all(world):
    world.together(1, 2, 3)
    world.star.tell(NEWS)
    assert world.star.timeout(world.now) == 0
    assert not world.star.settled
    world.until(lambda: world.star.settled)
    assert [world.heard[world.rays[node]] for node in (1, 2, 3)] == [[told_by(0)]] * 3
    assert world.heard[world.star] == []


def test_after_the_first_news_nothing_is_a_fault_any_more(world):
    world.together(1, 2, 3)
    world.rays[1].tell(NEWS)
    world.rays[2].tell({**NEWS, "why": "also"})
    world.until(lambda: world.rays[1].settled and world.rays[2].settled)
    world.settle()
    assert world.heard[world.rays[3]] == [told_by(1)]
    assert {news["node"] for news in world.heard[world.star]} == {1, 2}
    known = len(world.all_heard())
    world.close(world.rays[1])
    world.close(world.rays[2])
    world.sleep(2 * LOST_AFTER)
    world.close(world.star)
    world.sleep(3 * LOST_AFTER)
    assert len(world.all_heard()) == known
    assert world.rays[3].fds() == ([], [])


def test_who_comes_late_is_told(world):
    world.announce()
    world.star.tell(NEWS)
    late = world.ray(3)
    world.until(lambda: world.heard[late])
    assert world.heard[late] == [told_by(0)]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "gpu1 failed"),
        ({"why": 7}, "gpu1 failed"),
        ({"why": "a\x1b[31m\n\u202e\ud800b"}, "a [31m   b"),
        ({"why": "x" * 5000}, "x" * peers.MOST_WORDS),
        ({"why": "\U0001f600" * 5000}, "\U0001f600" * peers.MOST_WORDS),
    ],
)
def test_words_are_fit_for_a_screen(world, said, shown):
    world.together(1, 2)
    world.rays[1].tell(said)
    world.until(lambda: world.heard[world.rays[2]])
    (news,) = world.heard[world.rays[2]]
    assert (news["why"], news["exit_code"]) == (shown, peers.FAILED)
    assert abs(news["time"] - time.time()) < 60


@pytest.mark.parametrize(
    ("code", "kept"), [(4, 4), (0, 100), (256, 100), (True, 100), ("7", 100), (10**30, 100)]
)
@pytest.mark.parametrize("when", [float("nan"), float("inf"), -1, "now", None, 10**400])
def test_numbers_are_what_they_can_be(code, kept, when):
    news = peers.clean({"exit_code": code, "time": when}, 1)
    assert news["exit_code"] == kept
    assert abs(news["time"] - time.time()) < 60


# ---- coming and going ----


def test_where_the_head_is_may_be_told_late(world):
    waiting = world.ray(1)
    world.sleep(120)
    assert waiting.fds() == ([], [])
    assert waiting.timeout(world.now) > 0
    world.announce()
    world.sleep(ray.LOOK)
    assert (waiting.connected, world.star.connected) == (1, 1)
    assert world.all_heard() == []


def test_a_head_that_dies_and_is_born_again_on_its_port_is_found_again(world):
    world.together(1, 2, 3)
    port = world.star.port
    world.settle()  # nothing unread: its end of the connections lingers in TIME_WAIT
    world.close(world.star)
    world.sleep(LOST_AFTER / 2)
    assert world.connected() == 0
    world.star = world.head(port)
    assert world.star.problem is None
    world.sleep(LOST_AFTER / 4)
    assert (world.star.connected, world.connected()) == (3, 3)
    world.sleep(3 * LOST_AFTER)
    assert world.all_heard() == []


def test_a_port_that_is_taken_is_tried_for_again(world):
    world.together(1)
    port = world.star.port
    world.close(world.star)
    world.settle()
    with socket.create_server((world.address, port)):
        world.star = world.head(port)
        assert "cannot listen on 127.0.0.1" in world.star.problem
        assert world.star.timeout(world.now) <= star.LISTEN_AGAIN
        world.sleep(5)
    world.sleep(8)
    assert (world.star.problem, world.star.connected) == (None, 1)
    assert world.all_heard() == []


def test_a_bad_end_during_the_head_s_absence_is_heard_once_it_is_back(world):
    world.together(1, 2)
    port = world.star.port
    world.close(world.star)
    world.settle()
    world.rays[1].tell(NEWS)
    world.sleep(2)
    assert not world.rays[1].settled
    world.star = world.head(port)
    world.sleep(8)
    assert world.rays[1].settled
    assert world.heard[world.star] == world.heard[world.rays[2]] == [told_by(1)]
    world.close(world.star)
    world.sleep(10)
    assert world.rays[1].timeout(world.now) == world.rays[1].beat  # nothing to dial for


def test_who_has_something_to_say_dials_at_once(world):
    world.announce(1)
    world.ray(1)
    world.sleep(5 * ray.LAST_REDIAL)
    world.announce()
    world.rays[1].tell(NEWS)
    world.until(lambda: world.heard[world.star])  # with no time gone by


def test_who_has_failed_before_he_dialled_does_so_before_he_leaves(world):
    late = world.ray(1)
    late.tick(world.now)  # nobody has told him yet where the head is
    world.announce()
    late.tell(NEWS)
    assert not late.settled
    leaving = threading.Thread(target=peers.settle, args=(late, 30.0))
    world.driven.remove(late)
    leaving.start()
    world.until(lambda: world.heard[world.star])
    leaving.join()


def test_a_connection_whose_descriptor_select_does_not_know_is_served_as_well(world):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    ours, theirs = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, 2000))
    try:
        fd = high.fileno()
        assert peers.await_any([fd], [fd], 10.0) == (set(), {fd})
        theirs.send(b"x")
        assert peers.await_any([fd], [], 10.0) == ({fd}, set())
        theirs.close()
        assert peers.await_any([fd], [], 10.0) == ({fd}, set())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in (ours, theirs, high):
            each.close()


def test_what_is_said_twice_is_heard_once(world):
    world.together(1)
    for _ in range(2):  # as when the answer to the first was lost
        world.rays[1].tell(NEWS)
        world.until(lambda: world.rays[1].settled)
        world.close(world.rays[1])
        world.ray(1)
        world.until(lambda: world.rays[1].connected)
    assert len(world.heard[world.star]) == 1


def test_a_new_connection_takes_the_place_of_an_old_one(world):
    world.together(1)
    old = world.rays[1]
    world.driven.remove(old)  # frozen, and its guard has taken over
    new = world.ray(1)
    world.until(lambda: new.connected)
    assert world.star.connected == 1
    world.sleep(2 * LOST_AFTER)
    world.star.tell(NEWS)
    world.until(lambda: world.star.settled)
    assert world.heard[new] == [told_by(0)]
    old.close()


def test_the_peers_keep_no_descriptor_that_blocks_or_is_inherited(world):
    world.together(1)
    for peer in world.driven:
        for fd in peer.fds()[0]:
            assert not os.get_inheritable(fd)
            assert not os.get_blocking(fd)


# ---- silence ----


def lost(node):
    why = f"{NAMES[node]} was not heard from for 30 s"
    return {"why": why, "host": NAMES[node], "node": node, "exit_code": peers.LOST}


def without_time(heard):
    return [{name: news[name] for name in news if name != "time"} for news in heard]


def test_a_node_is_lost_after_its_time_and_not_before(world):
    world.together(1, 2, 3)
    world.sleep(2 * LOST_AFTER)
    world.settle()
    world.driven.remove(world.rays[2])
    silent = world.star._awake - world.star._heard_at[2]
    world.sleep(LOST_AFTER - silent - 0.3)
    assert world.all_heard() == []
    assert world.star.timeout(world.now) < 0.31
    world.sleep(0.6)
    heard = {peer.node: without_time(world.heard[peer]) for peer in world.driven}
    assert heard == {0: [lost(2)], 1: [lost(2)], 3: [lost(2)]}
    world.until(lambda: world.star.settled)  # the lost one is not waited for


@pytest.mark.parametrize("who", ["the head", "a ray"])
def test_one_whose_supervisor_was_killed_is_not_lost_as_its_host_lives(world, who):
    """Its kernel hangs up, and refuses who dials: the job there may well run on."""
    world.together(1, 2)
    world.close(world.star if who == "the head" else world.rays[1])
    world.sleep(5 * LOST_AFTER)
    assert world.all_heard() == []


def test_a_head_is_lost_after_its_time_and_not_before(world):
    world.together(1, 2)
    world.sleep(2 * LOST_AFTER)
    world.driven.remove(world.star)
    silent = world.rays[1]._awake - world.rays[1]._heard_at
    world.sleep(LOST_AFTER - silent - 0.3)
    assert world.all_heard() == []
    assert world.rays[1].timeout(world.now) < 0.31
    world.sleep(0.6)
    assert [without_time(world.heard[world.rays[node]]) for node in (1, 2)] == [[lost(0)]] * 2
    world.sleep(LOST_AFTER)
    assert len(world.all_heard()) == 2


@pytest.mark.parametrize("who", ["the head", "a ray"])
def test_one_that_is_stopped_for_a_while_is_not_lost(world, who):
    world.together(1, 2)
    peer = world.star if who == "the head" else world.rays[1]
    for _ in range(5):
        world.driven.remove(peer)
        world.sleep(LOST_AFTER - 10)
        world.driven.append(peer)
        world.sleep(10)
    assert world.connected() == 2
    assert world.all_heard() == []


def test_time_in_which_none_was_awake_is_no_silence(world):
    world.together(1, 2)
    for _ in range(3):
        world.now += 3600
        for peer in world.driven:
            peer.tick(world.now)  # before anything is read
        world.sleep(LOST_AFTER / 2)
    assert world.connected() == 2
    assert world.all_heard() == []


def test_a_silent_connection_is_given_up_for_a_new_one_before_its_node_is(world):
    world.together(1)
    here, there = socket.socketpair()  # the line leads nowhere any more
    with here, there:
        line = world.rays[1]._line
        line.socket, real = there.dup(), line.socket
        line.socket.setblocking(False)
        world.sleep(LOST_AFTER - 8)
        assert world.rays[1]._line is not line
        real.close()
    assert (world.star.connected, world.connected()) == (1, 1)
    world.sleep(2 * LOST_AFTER)
    assert world.all_heard() == []


def test_who_says_goodbye_is_not_missed(world):
    world.together(1, 2)
    world.rays[1].goodbye()
    world.until(lambda: world.rays[1].settled)
    world.close(world.rays[1])
    world.sleep(3 * LOST_AFTER)
    assert world.all_heard() == []
    world.star.goodbye()
    world.until(lambda: world.star.settled)
    world.close(world.star)
    world.sleep(3 * LOST_AFTER)
    assert world.all_heard() == []
    assert world.rays[2].settled


def test_what_cannot_connect_is_no_fault(world):
    with socket.create_server(("127.0.0.1", 0)) as blocked:  # takes calls and never says a word
        world.announce(blocked.getsockname()[1])
        world.ray(1)
        world.sleep(10 * LOST_AFTER)
        blocked.settimeout(30)
        for _ in range(5):  # it was not waited for, but called again
            blocked.accept()[0].close()
    world.announce(1)  # refused
    world.sleep(10 * LOST_AFTER)
    assert (world.star.connected, world.connected()) == (0, 0)
    assert world.rays[1].problem == "no answer from 127.0.0.1, port 1"
    assert world.all_heard() == []
    world.rays[1].tell(NEWS)
    world.settle()
    assert world.rays[1].settled  # nobody to wait for


@pytest.mark.parametrize("given", [False, True])
def test_a_port_that_torchrun_will_want_is_not_taken_though_it_is_free(monkeypatch, given):
    """It was found free before the start, and the kernel may hand it to us."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        wanted = there.getsockname()[1]
    handed = []

    class Handed(socket.socket):
        def bind(self, place):
            handed.append(place[1])
            super().bind((place[0], wanted) if len(handed) == 1 else place)

    monkeypatch.setattr(star, "socket", SimpleNamespace(**{**vars(socket), "socket": Handed}))
    head = star.Star("127.0.0.1", KEY, NAMES, 0.0, wanted if given else 0, avoided=wanted)
    try:
        assert head.problem is None
        assert (head.port == wanted) is given
        assert handed == ([wanted] if given else [0, 0])
        with socket.socket() as torchruns:
            if not given:
                torchruns.bind(("127.0.0.1", wanted))
        with socket.create_connection(("127.0.0.1", head.port), 60):
            pass
    finally:
        head.close()


@pytest.mark.parametrize("address", ["203.0.113.1", "localhost", "\xe4", ""])
def test_a_head_that_cannot_listen_says_so_and_goes_on(world, address):
    head = star.Star(address, KEY, NAMES, 0.0)
    assert f"cannot listen on {address}" in head.problem
    head.tick(1000.0)
    head.tell(NEWS)
    assert head.fds() == ([], [])
    assert head.settled


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"address": 1, "port": 1}', '{"address": "127.0.0.1", "port": 1e400}']
    + [f'{{"address": "127.0.0.1", "port": {port}}}' for port in (70000, -1, "null", "[]")]
    + ['{"address": "localhost", "port": 1}', '{"address": "\\u00e4", "port": 1}'],
)
def test_a_place_that_is_none_is_looked_at_again_later(world, text):
    waiting = world.ray(1)
    (world.folder / "1" / record.PEERS).write_text(text)
    world.sleep(2 * ray.LOOK)
    assert record.PEERS in waiting.problem
    world.announce()
    world.sleep(ray.LOOK)
    assert (waiting.connected, waiting.problem) == (1, None)


# ---- others on the network ----


class Stranger:
    """Someone who can reach the head's port, and says what he likes."""

    def __init__(self, world, node=1, key=None):
        self.world = world
        self.socket = socket.create_connection((world.address, world.star.port))
        self.socket.setblocking(False)
        key = key or sealed.key_for(KEY, node)
        self.talk = sealed.Conversation(lambda node: key, node)

    def meet(self):
        """Go through the greeting, as one of them would."""
        self.send(self.talk.hello())
        self.world.until(lambda: self.read() or self.talk.met)
        return self

    def read(self):
        try:
            self.talk.feed(self.socket.recv(1 << 16))
        except BlockingIOError:
            return

    def send(self, data):
        self.socket.sendall(data)

    def is_dropped(self):
        self.world.settle()
        try:
            while self.socket.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return True

    def leave(self):
        self.socket.close()


@pytest.fixture
def stranger(world):
    made = []

    def make(*args):
        made.append(Stranger(world, *args))
        return made[-1]

    yield make
    for one in made:
        one.leave()


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (1, "00" * 32),  # who has none
        (1, KEY),  # the run's own is nobody's
        (1, sealed.key_for(KEY, 2)),  # another node
        (2, sealed.key_for(KEY, 1)),
    ],
)
def test_whoever_has_not_the_key_of_the_node_he_claims_to_be_is_not_heard(
    world, stranger, node, key
):
    world.together(1, 2, 3)
    thief = stranger(node, key).meet()
    thief.send(thief.talk.seal({"kind": "news", "news": NEWS}))
    assert thief.is_dropped()
    assert (world.star.connected, world.connected()) == (3, 3)
    assert world.all_heard() == []


def test_whose_news_it_is_is_not_for_the_news_to_say(world, stranger):
    world.together(2)
    liar = stranger(1).meet()
    liar.send(liar.talk.seal({"kind": "news", "news": {**NEWS, "node": 3, "host": "gpu3"}}))
    world.until(lambda: world.heard[world.rays[2]])
    assert world.heard[world.star] == world.heard[world.rays[2]] == [told_by(1)]


@pytest.mark.parametrize("node", [0, -1, 4, 10**30, True, None, "1", 1.0, [1]])
def test_a_node_that_is_not_in_the_run_is_not_met(world, stranger, node):
    nobody = stranger()
    hello = {"version": 1, "node": node, "nonce": "00" * 16}
    nobody.send(sealed.pack(json.dumps(hello).encode()))
    assert nobody.is_dropped()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: gpu0\r\n\r\n",
        b"\xff" * 100,
        b"\x00\x00",
        sealed.LENGTH.pack(sealed.LARGEST + 1),
        sealed.pack(b"null"),
        sealed.pack(b"[" * sealed.LARGEST),
        sealed.pack(b'{"version": 2, "node": 1, "nonce": "' + b"00" * 16 + b'"}'),
        sealed.pack(b'{"version": 1, "node": 1, "nonce": "00"}'),
        sealed.pack(b'{"version": 1, "node": 1, "nonce": 7}'),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_nonsense_ends_the_connection_and_nothing_else(world, stranger, data, first):
    world.together(2)
    one = stranger(1)
    if not first:
        one.meet()
    one.send(data)
    assert one.is_dropped()
    assert (world.star.connected, world.all_heard()) == (1, [])


def test_what_was_said_before_says_nothing_again(world, stranger, monkeypatch):
    said = bytearray()
    send = peers.Line.send

    def overheard(line, data):
        if world.rays and line is world.rays[1]._line:
            said.extend(data)
        send(line, data)

    monkeypatch.setattr(peers.Line, "send", overheard)
    world.together(1)
    world.rays[1].goodbye()
    world.until(lambda: world.rays[1].settled)
    again = stranger()
    again.send(said)
    assert again.is_dropped()
    world.close(world.star)
    world.star = world.head()  # of the same run, that has heard nothing yet
    again = stranger()
    again.send(said)
    assert again.is_dropped()
    assert world.star.connected == 0


@pytest.mark.parametrize("how", ["again", "reflected", "in the wrong order", "changed", "cut"])
def test_a_message_opens_once_in_its_turn_and_direction(world, stranger, how):
    one = stranger(1).meet()
    first, second = (one.talk.seal({"kind": kind}) for kind in ("here", "here"))
    if how == "reflected":
        one.talk._keys = one.talk._keys[::-1]
        first = one.talk.seal({"kind": "here"})
    data = {
        "again": first + first,
        "reflected": first,
        "in the wrong order": second + first,
        "changed": first[:-1] + b" ",
        "cut": sealed.pack(first[2:-1]),
    }
    one.send(data[how])
    assert one.is_dropped()


def test_a_head_without_the_key_is_not_believed(world):
    impostor = world.drive(star.Star(world.address, "11" * 32, NAMES, world.now))
    world.announce(impostor.port)
    world.ray(1)
    impostor.tell(NEWS)
    world.sleep(2 * LOST_AFTER)
    assert (impostor.connected, world.connected(), world.all_heard()) == (0, 0, [])
    world.announce()
    world.sleep(ray.LAST_REDIAL)
    assert world.connected() == 1


def test_one_that_takes_his_time_is_not_waited_for(world, stranger):
    slow = stranger()
    hello = slow.talk.hello()
    for at in range(6):
        assert world.star.timeout(world.now) <= peers.AUTHENTIC_WITHIN or at == 0
        slow.send(hello[at : at + 1])
        assert not slow.is_dropped()
        world.sleep(0.8)
    world.sleep(peers.AUTHENTIC_WITHIN)
    assert slow.is_dropped()
    met = stranger().meet()  # and says nothing more
    world.sleep(peers.AUTHENTIC_WITHIN)
    assert met.is_dropped()


def test_many_strangers_keep_nobody_out(world, stranger):
    world.together(1)
    crowd = []
    latecomer = world.ray(2)
    for _ in range(8):
        crowd += [stranger() for _ in range(20)]
        world.settle()
        assert len(world.star._strangers) <= star.STRANGERS
        world.now += 0.5
    world.sleep(5)
    assert (latecomer.connected, world.star.connected) == (1, 2)
    assert sum(not one.is_dropped() for one in crowd) <= star.STRANGERS
    assert world.all_heard() == []


def test_the_oldest_stranger_makes_room(world, stranger):
    world.announce()
    for _ in range(2 * star.STRANGERS):
        stranger()
    world.settle()
    newcomer = world.ray(1)
    world.until(lambda: newcomer.connected)  # with no time gone by


def test_a_flood_is_taken_in_small_doses(world, stranger):
    for _ in range(2 * star.ARRIVALS):
        stranger()
    world.settle()
    assert world.star.fds()[0] == [line.socket.fileno() for line in world.star._strangers]
    assert 0 < world.star.timeout(world.now) <= 1.0
    world.now += 1.0
    world.turn()
    assert world.star._listener.fileno() in world.star.fds()[0]


def test_without_descriptors_the_head_does_not_spin(world, stranger):
    world.announce()
    stranger()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        world.settle()
        assert world.star.fds()[0] == []
        assert 0 < world.star.timeout(world.now) <= 1.0
        broke = world.ray(1)
        world.settle()
        assert "Too many open files" in broke.problem
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    world.sleep(2 * ray.LOOK)
    assert broke.connected


def test_for_one_who_takes_nothing_little_is_kept(world, stranger):
    deaf = stranger(1).meet()
    deaf.socket.setblocking(True)
    deaf.socket.settimeout(0.05)
    deaf.send(deaf.talk.seal({"kind": "here"}))
    world.until(lambda: world.star.connected == 1)
    line = world.star._lines[1]
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for count in itertools.count():
        assert count < 100_000
        try:
            deaf.send(deaf.talk.seal({"kind": "bye"}))  # wants an answer
        except OSError:
            break
        if count % 100 == 0:
            world.turn()
        assert len(line.unsent) <= peers.MOST_UNSENT + sealed.LARGEST
    world.until(lambda: line.over)
    assert world.star.connected == 0


# ---- as it is shipped ----

SHIPPED = """
import json, sys, time
star, ray, peers = (sys.modules['ddp_orch_node.' + n] for n in ('star', 'ray', 'peers'))
folder, key, names = json.loads(sys.stdin.readline())
one = ray.Ray(folder, key, 1, names, time.monotonic())
import select
while not one.connected:
    r, w = one.fds()
    r, w, _ = select.select(r, w, [], one.timeout(time.monotonic()))
    one.ready(r, w, time.monotonic())
    one.tick(time.monotonic())
one.tell({"why": "torchrun on {host} was killed", "exit_code": 100, "time": 5})
peers.settle(one, 20.0)
print(one.settled, 'hashlib' in sys.modules, 'encodings.idna' in sys.modules, flush=True)
"""


@pytest.mark.parametrize("version", [SUPPORTED[0], *SUPPORTED[1:]])
def test_last_words_arrive_though_their_teller_is_gone_at_once(world, version, tmp_path):
    world.announce()
    program = boot.program(boot.in_order(["star", "ray"]), "\n" + SHIPPED)
    given = json.dumps([str(tmp_path / "1"), sealed.key_for(KEY, 1), NAMES])
    command = [python_or_skip(version), "-X", "utf8", "-I", "-S", "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            child.stdin.write(given + "\n")
            child.stdin.flush()
            world.until(lambda: world.heard[world.star])
            world.until(lambda: child.poll() is not None)
        finally:
            child.kill()
        assert child.stdout.read().split() == ["True", "True", "False"]
    (news,) = world.heard[world.star]
    assert news["why"] == "torchrun on gpu1 was killed"
    assert news["host"] == "gpu1"
