"""Calls to the agent: JSON over HTTP on its unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any, Dict, Iterator, Optional

NOT_FOUND = 5
DEADLINE = 4
INVALID = 3
EXHAUSTED = 8
PRECONDITION = 9
UNAVAILABLE = 14

_SERVICE = "/vigil.trainer.v1.TrainerService/"
_HEADERS = {"Content-Type": "application/json"}


class AgentError(Exception):
    """A call that the agent refused or that did not reach it; code is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: Optional[float]) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One connection to the agent, made when it is needed. Not for several threads at once."""

    def __init__(self, path: str, timeout: Optional[float]) -> None:
        self._path = path
        self._timeout = timeout
        self._connection: Optional[_UnixConnection] = None

    def call(self, method: str, body: Dict[str, Any], timeout: Optional[float] = None) -> Dict[str, Any]:
        """Makes a call and gives its answer; raises AgentError."""
        fresh = self._connection is None
        try:
            return self._call(method, body, timeout)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as e:
            # A connection that was kept may have been closed while it was idle.
            self.close()
            if fresh:
                raise AgentError(UNAVAILABLE, "%s: %s" % (method, e)) from e
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._broken(method, e) from e
        try:
            return self._call(method, body, timeout)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._broken(method, e) from e

    def _broken(self, method: str, e: Exception) -> AgentError:
        self.close()
        return AgentError(DEADLINE if isinstance(e, socket.timeout) else UNAVAILABLE, "%s: %s" % (method, e))

    def _call(self, method: str, body: Dict[str, Any], timeout: Optional[float]) -> Dict[str, Any]:
        response = self._send(method, body, timeout)
        text = response.read()
        answer = json.loads(text) if text else {}
        if response.status != 200:
            raise AgentError(int(answer.get("code", UNAVAILABLE)), str(answer.get("message", response.reason)))
        return answer if isinstance(answer, dict) else {}

    def _send(self, method: str, body: Dict[str, Any], timeout: Optional[float]) -> http.client.HTTPResponse:
        c = self._connection
        if c is None:
            c = self._connection = _UnixConnection(self._path, self._timeout)
            c.connect()
        c.sock.settimeout(self._timeout if timeout is None else timeout)
        c.request("POST", _SERVICE + method, json.dumps(body).encode(), _HEADERS)
        return c.getresponse()

    def stream(self, method: str, body: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
        """Makes a call that is answered by one JSON document a line, for as long as it lasts."""
        try:
            response = self._send(method, body, None)
            if response.status != 200:
                answer = json.loads(response.read() or b"{}")
                raise AgentError(int(answer.get("code", UNAVAILABLE)), str(answer.get("message", response.reason)))
            if self._connection is not None and self._connection.sock is not None:
                self._connection.sock.settimeout(None)
            for line in response:
                if not line.strip():
                    continue
                document = json.loads(line)
                error = document.get("error")
                if error is not None:
                    raise AgentError(int(error.get("code", UNAVAILABLE)), str(error.get("message", "")))
                yield document.get("result") or {}
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
            raise AgentError(UNAVAILABLE, "%s: %s" % (method, e)) from e
        raise AgentError(UNAVAILABLE, "%s: the agent ended it" % method)

    def close(self) -> None:
        """Closes the connection; a stream that is being read ends."""
        c, self._connection = self._connection, None
        if c is None:
            return
        try:
            if c.sock is not None:
                c.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        try:
            c.close()
        except OSError:
            pass

    def abandon(self) -> None:
        """Lets go of the connection in a forked child, so that the agent sees the parent's end."""
        c, self._connection = self._connection, None
        sock = getattr(c, "sock", None)
        if sock is not None:
            try:
                os.close(sock.detach())
            except OSError:
                pass
