"""Prove who we are: offer what the keyring has, and say in a sentence when none will do."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import paramiko

from orchestrator.errors import HostError
from orchestrator.host.conversation import Conversation
from orchestrator.host.keys import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.host.conversation import Answer
    from orchestrator.host.keyring import Identity, Keyring
    from orchestrator.host.protocol import Watch
    from orchestrator.host.target import Target
    from orchestrator.host.transport import Transport

# What a server may take to answer to one key, in seconds.
LOGIN = 15.0
# Asking somebody took long, when it took this: sshd may have lost its patience meanwhile.
LONG = 2.0
# More keys than this, and the sentence about them only counts.
SHOWN = 6
TOO_MANY = "Too many authentication failures"
WANTED = {
    "password": "a password",
    "keyboard-interactive": "answers to questions (a password, a second factor)",
    "gssapi-with-mic": "Kerberos (GSSAPI)",
    "hostbased": "the word of another host (hostbased)",
    "publickey": "another key",
}


class Login:
    """One host's login, in the place of what paramiko calls an auth strategy."""

    def __init__(self, target: Target, keyring: Keyring, watch: Watch) -> None:
        self._target = target
        self._keyring = keyring
        self._watch = watch
        self._offered: list[str] = []
        self._left_out: list[tuple[Identity, Unusable]] = []
        self._taken: list[Identity] = []  # which were good, but not enough
        self._would_do: list[Identity] = []
        self._signed: Identity | None = None
        self._waited = False
        self._transport: Transport | None = None

    def authenticate(self, transport: Transport) -> list[Any]:
        self._transport = transport
        self._watch.enter("asking ssh-agent for its keys", None)  # which has a deadline of its own
        identities = self._keyring.identities(self._target)
        talk = Conversation(transport, self._target.user)
        try:
            if self._is_in(talk, identities):
                return []
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._hung_up(error, transport, talk) from error
        raise self._refused(talk)

    def _is_in(self, talk: Conversation, identities: Sequence[Identity]) -> bool:
        left = list(identities)
        while left:
            identity = left.pop(0)
            self._go_on()
            try:
                answer = self._offer(talk, identity)
            except Unusable as error:
                self._left_out.append((identity, error))
                continue
            if answer == "in":
                return True
            if answer == "partly":  # some want two keys
                self._taken.append(identity)
                left = [i for i in identities if i not in self._taken]
            if "publickey" not in talk.methods:
                return False
        self._go_on()
        return not talk.methods and talk.nothing() == "in"

    def _offer(self, talk: Conversation, identity: Identity) -> Answer:
        file, public = identity.file, identity.public
        self._signed = None  # of one whose agent would not sign
        if identity.agent is None and file is None:
            raise Unusable("has no private key here")
        # Whom it bothers, or what cannot sign, is offered without a signature first, as ssh does.
        if public and (identity.agent or (file and not file.ready)):
            answer = talk.would_take(public)
            if answer != "would do":
                self._offered.append(described(identity))
                return answer
            self._would_do.append(identity)
        sign = self._by_agent(identity) if identity.agent else self._by_file(identity)
        shown = public or (file and file.public)
        assert shown, "a key that is open tells its public half"
        self._signed = identity
        answer = talk.sign_in(shown, sign)
        self._signed = None
        self._offered.append(described(identity))
        return answer

    def _by_agent(self, identity: Identity) -> Callable[[bytes, str], bytes]:
        agent, key = identity.agent, identity.signs_as or identity.public
        assert agent
        assert key

        def sign(data: bytes, algorithm: str) -> bytes:
            # It has a deadline of its own, and may have a line of hosts before it.
            with self._somebody_is_asked("waiting for ssh-agent to sign"):
                return agent.sign(key, data, algorithm)

        return sign

    def _by_file(self, identity: Identity) -> Callable[[bytes, str], bytes]:
        assert identity.file
        ask = self._keyring.ask if self._target.ask else nobody
        if identity.file.ready:
            key = identity.file.key(ask)
        else:
            with self._somebody_is_asked(f"waiting for the passphrase of {identity.file.shown}"):
                key = identity.file.key(ask)
        return lambda data, algorithm: key.sign_ssh_data(data, algorithm).asbytes()

    @contextlib.contextmanager
    def _somebody_is_asked(self, stage: str) -> Iterator[None]:
        """Let no deadline run out while a person types, or has to confirm."""
        self._watch.enter(stage, None)
        began = time.monotonic()
        yield
        # Perhaps it has hung up already: then no key was to blame.
        gone = self._transport is not None and not self._transport.is_active()
        self._waited = gone or time.monotonic() - began > LONG
        self._go_on()

    def _go_on(self) -> None:
        # The wait for an answer has its own sentence; it goes first.
        self._watch.enter(f"logging in as {self._target.user}", LOGIN + 5)

    # ---- what is said ----

    def _hung_up(self, error: Exception, transport: Transport, talk: Conversation) -> Exception:
        if TOO_MANY in transport.goodbye:
            return self._error(
                f"hangs up after {len(self._offered) + 1} keys that it does not know "
                f"({self._told()})",
                "name the key to use: `identity_file:` in the inventory, or IdentityFile and "
                "`IdentitiesOnly yes` in your ssh configuration",
            )
        if transport.is_active():
            return self._error(f"did not answer within {LOGIN:.0f} s to the login", self._by_hand)
        if self._signed and not self._waited:
            said = last_line(talk.banner)
            return self._error(
                f"hangs up when {self._signed.shown} is used"
                + (f"; it says: {said}" if said else ""),
                f"is the account of {self._target.user} there locked, expired or kept out (PAM)?",
            )
        # After a long wait sshd may have had enough: with what is known now, another try is quick.
        why = transport.goodbye or str(error) or "hung up while logging in"
        return ConnectionResetError(why)

    def _refused(self, talk: Conversation) -> HostError:
        missing = " and ".join(WANTED.get(method, method) for method in talk.methods)
        if self._taken:
            return self._error(
                f"takes {self._taken[-1].shown}, but wants {missing} as well; only keys can be "
                "given here",
                "ask who runs it to let this account in by a key alone; a connection that ssh "
                "shares (ControlMaster) is not used",
            )
        for identity, why in self._left_out:
            if identity in self._would_do:
                return self._error(f"takes {identity.shown}, but that {why.why}", why.hint)
        if talk.methods and "publickey" not in talk.methods:
            return self._error(
                f"takes no keys, but only {missing}; only keys can be given here",
                "ask who runs it to allow keys (PubkeyAuthentication yes); a connection that ssh "
                "shares (ControlMaster) is not used",
            )
        refused = f"refuses to log in {self._target.user} ({self._told()})"
        first = self._left_out[0][1].hint if self._left_out and not self._offered else None
        if {"password", "keyboard-interactive"} & {*talk.methods}:
            copying = self._target.copying_a_key
            return self._error(refused, first or f"{self._by_hand}, or put a key there: {copying}")
        return self._error(refused, first or self._by_hand)

    @property
    def _by_hand(self) -> str:
        # -S none: a connection that ssh shares would hide what happens here.
        return f"try it by hand: {self._target.by_hand.replace('ssh ', 'ssh -S none ', 1)}"

    def _told(self) -> str:
        """Tell what was offered and what was not, in one line."""
        told = f"keys offered: {_listed(self._offered) or 'none'}"
        if self._left_out:
            told += f"; left out: {_listed([f'{i.shown} {e.why}' for i, e in self._left_out])}"
        agent = self._keyring.agent(self._target)
        return f"{told}; {agent.problem}" if agent and agent.problem else told

    def _error(self, message: str, hint: str | None) -> HostError:
        return HostError(message, check="ssh.auth", hint=hint)


def nobody(_: str) -> str | None:
    return None


def described(identity: Identity) -> str:
    if identity.public and identity.public.certified:
        return f"{identity.shown} ({identity.public.limits(time.time())})"
    return identity.shown


def last_line(banner: object) -> str:
    """Return the end of what a server says on the way, which is where it says why not."""
    text = banner.decode("utf-8", "replace") if isinstance(banner, bytes) else str(banner or "")
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1][:200]


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more
