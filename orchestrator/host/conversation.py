"""What is said to an sshd while logging in: OpenSSH's way of it, on paramiko's machinery."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import cMSG_USERAUTH_REQUEST

from orchestrator.host.keys import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.host.publickey import PublicKey

# In; one step further, other methods must follow; asked whether a key would do: yes; no.
Answer = Literal["in", "partly", "would do", "no"]


class Conversation(AuthHandler):
    """One login. paramiko's own would send a signature for every key, without asking first.

    A person or an agent is bothered for a signature only for a key that the host would take
    (RFC 4252, section 7), and the service is asked for once, not again for each key. What is marked
    for the type checker is not in paramiko's public face, which has no way to do this.
    """

    def __init__(self, transport: paramiko.Transport, user: str) -> None:
        super().__init__(transport)
        transport.auth_handler = self
        self.methods: list[str] = []
        """What the server said last that it would take."""

        self._user = user
        self._granted = False
        self._would_do = False
        self._request = paramiko.Message()

    def nothing(self) -> Answer:
        """Ask for nothing, to hear what the server would take."""
        return self._say(self._begun("none"))

    def would_take(self, key: PublicKey) -> Answer:
        request, _ = self._offer(key, signed=False)
        return self._say(request)

    def sign_in(self, key: PublicKey, sign: Callable[[bytes, str], bytes]) -> Answer:
        """Offer a key with a signature of the data and by the algorithm that `sign` is given."""
        request, algorithm = self._offer(key, signed=True)
        assert self.transport.session_id, "the keys are exchanged by now"
        to_sign = paramiko.Message()
        to_sign.add_string(self.transport.session_id)
        request.add_string(sign(to_sign.asbytes() + request.asbytes(), algorithm))
        return self._say(request)

    def _begun(self, method: str) -> paramiko.Message:
        self.auth_method = method
        request = paramiko.Message()
        request.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (self._user, "ssh-connection", method):
            request.add_string(text)
        return request

    def _offer(self, key: PublicKey, *, signed: bool) -> tuple[paramiko.Message, str]:
        request = self._begun("publickey")
        try:
            algorithm: str = self._finalize_pubkey_algorithm(key.kind)  # type: ignore[attr-defined]
        except paramiko.SSHException as error:
            why = "is an RSA key, and the host takes no signature of one that is still safe"
            raise Unusable(why, "use a key of another kind: ssh-keygen -t ed25519") from error
        request.add_boolean(signed)
        request.add_string(algorithm)
        request.add_string(key.blob)
        return request, algorithm

    def _say(self, request: paramiko.Message) -> Answer:
        """Return the answer; raise what paramiko does when there is none, or it hung up."""
        self.username = self._user
        self._would_do = False
        self._request = request
        self.auth_event = answered = threading.Event()
        if self._granted:  # else the request follows when it is
            self._send(request)
        else:
            self._request_auth()  # type: ignore[attr-defined]
        try:
            more = self.wait_for_response(answered)
        except paramiko.AuthenticationException:
            if not self.transport.is_active() or not answered.is_set():
                raise
            return "would do" if self._would_do else "no"
        if more:
            self.methods = more
        return "partly" if more else "in"

    def _send(self, message: paramiko.Message) -> None:
        self.transport._send_message(message)  # type: ignore[attr-defined]

    # ---- what paramiko calls, in its own thread ----

    def _parse_service_accept(self, m: Any) -> None:  # noqa: ANN401  its signature
        self._granted = True
        self._send(self._request)

    def _parse_userauth_info_request(self, m: Any) -> None:  # noqa: ANN401
        # The number that means a question for a password when that is what is being talked about.
        self._would_do = True
        assert self.auth_event
        self.auth_event.set()

    def _parse_userauth_failure(self, m: paramiko.Message) -> None:
        self.methods = m.get_list()
        m.rewind()
        super()._parse_userauth_failure(m)  # type: ignore[misc]
