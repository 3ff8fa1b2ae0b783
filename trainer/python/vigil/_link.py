"""The connection with the agent, kept in the background for as long as the run lasts."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, Callable, Dict, List, Optional

from . import _orders, _report
from ._http import EXHAUSTED, INVALID, NOT_FOUND, PRECONDITION, UNAVAILABLE, AgentError, Client
from ._queue import Queue
from ._settings import Settings
from . import _wire

log = logging.getLogger("vigil")

FIRST_RETRY = 0.02
LAST_RETRY = 1.0
BATCH = 512
DEFAULT_HOLD = 5.0


class _Watch:
    """One watch of directives, and how it ended."""

    def __init__(self, settings: Settings) -> None:
        self.client = Client(settings.socket, settings.call_seconds)
        self.ready = threading.Event()
        self.error: Optional[AgentError] = None


class Link:
    """Registers, sends what the queue holds, and takes directives; again and
    again until it is closed. Every method but run may be called from any thread.

    An agent counts as back when it has taken a report. When another process
    registers for the same rank this one is not watched any more: fighting for
    it would help nobody.
    """

    def __init__(self, settings: Settings, queue: Queue, on_directive: Callable[[Dict[str, Any]], None]) -> None:
        self._settings = settings
        self._queue = queue
        self._on_directive = on_directive
        self._changed = threading.Condition()
        self._urgent = threading.Event()
        self._session = ""
        self._taken = False  # the agent took a report since it was met
        self._outbox: List[Dict[str, Any]] = []
        self._told = 0
        self._pid = os.getpid()
        self._reporter = Client(settings.socket, settings.call_seconds)
        self._watch: Optional[_Watch] = None
        self.tried = threading.Event()  # after the first attempt, good or bad
        self.flushed = threading.Event()  # all was sent after closing
        self.over = threading.Event()  # the agent is not looked for any more
        self.closing = False
        self.met = False  # an agent ever answered
        self.hold = DEFAULT_HOLD
        self.node = ""

    @property
    def session(self) -> str:
        """The session's id; empty while there is none."""
        return self._session

    def wake(self) -> None:
        """Has what waits sent now."""
        self._urgent.set()

    def start(self) -> None:
        """Begins in the background."""
        threading.Thread(target=self._run, name="vigil-agent", daemon=True).start()

    def abandon(self) -> None:
        """Lets go of the connections in a forked child."""
        self._reporter.abandon()
        if self._watch is not None:
            self._watch.client.abandon()

    def _run(self) -> None:
        wait, silent = FIRST_RETRY, False
        while not self.over.is_set():
            try:
                self._connected()
            except AgentError as e:
                if e.code == PRECONDITION:
                    log.error("vigil: another process registered for the same run and rank; this one is not watched any more")
                    break
                if self._taken:
                    wait, silent = FIRST_RETRY, False
                if not silent and e.code != NOT_FOUND and not self.closing:
                    silent = True
                    log.warning("vigil: no answer from the agent at %s; training goes on, and so does the search for it (%s)", self._settings.socket, e)
            except Exception:  # noqa: BLE001 - nothing here may end the search
                log.exception("vigil: the connection with the agent broke")
            self._down()
            self.tried.set()
            if self.closing and not self.met:
                break
            time.sleep(wait)
            wait = min(2 * wait, LAST_RETRY)
        self.over.set()
        self._down()
        self.tried.set()

    def _connected(self) -> None:
        self._taken = False
        welcome = self._reporter.call("Register", self._registration())
        session = welcome.get("sessionId", "")
        self.hold = _wire.parse_duration(welcome.get("hold", ""), DEFAULT_HOLD)
        self.node = welcome.get("node", "")
        watch = self._watch = _Watch(self._settings)
        threading.Thread(target=self._directives, args=(watch, session), name="vigil-directives", daemon=True).start()
        if not watch.ready.wait(self._settings.call_seconds):
            raise AgentError(UNAVAILABLE, "watch directives: the agent does not answer")
        if watch.error is not None:
            raise watch.error
        with self._changed:
            self._session, self.met = session, True
            self._changed.notify_all()
        self.tried.set()
        self._send(session, watch)

    def _registration(self) -> Dict[str, Any]:
        s = self._settings
        return {
            "runId": s.run_id, "attempt": s.attempt, "rank": s.rank, "kind": "SESSION_KIND_TRAINER",
            "trainer": {
                "worldSize": s.world_size, "pid": str(os.getpid()), "framework": s.framework, "name": s.name,
                "settings": s.config, "totalSteps": str(s.total_steps),
            },
        }

    def _down(self) -> None:
        if self._watch is not None:
            self._watch.client.close()
        self._reporter.close()
        with self._changed:
            if self._session:
                self._session = ""
                self._changed.notify_all()

    def _directives(self, watch: _Watch, session: str) -> None:
        """Takes directives as they come, until the watch breaks."""
        try:
            for answer in watch.client.stream("WatchDirectives", {"sessionId": session}):
                if os.getpid() != self._pid:
                    return
                if answer.get("directive"):
                    self._on_directive(answer["directive"])
                watch.ready.set()
        except AgentError as e:
            watch.error = e
        except Exception as e:  # noqa: BLE001
            log.exception("vigil: a directive could not be taken")
            watch.error = AgentError(UNAVAILABLE, str(e))
        watch.ready.set()
        self._urgent.set()

    def _send(self, session: str, watch: _Watch) -> None:
        """Empties the queue at every tick and whenever something is urgent."""
        pause = 0.0
        while True:
            closing = self.closing
            try:
                self._send_all(session)
                pause = 0.0
            except AgentError as e:
                if e.code != EXHAUSTED:
                    raise
                if not pause:
                    log.warning("vigil: the agent's disk is full; what is to be reported waits here")
                pause = min(max(2 * pause, FIRST_RETRY), LAST_RETRY)
            if closing and not pause:
                self.flushed.set()
                self.over.set()
                return
            if pause:
                time.sleep(pause)
            else:
                self._urgent.wait(self._settings.flush_seconds)
            self._urgent.clear()
            if watch.error is not None:
                raise watch.error

    def _send_all(self, session: str) -> None:
        while True:
            if not self._outbox:
                self._outbox = _report.events(self._queue.take(BATCH))
            drops = self._queue.drops()
            if not self._outbox and drops == self._told:
                return
            body: Dict[str, Any] = {"sessionId": session, "events": self._outbox}
            if drops > self._told:
                body["dropped"] = str(drops - self._told)
            try:
                self._reporter.call("Report", body)
                self._told, self._taken = max(drops, self._told), True
            except AgentError as e:
                if e.code != INVALID:
                    raise
                self._refused(session, e)
            self._outbox = []

    def _refused(self, session: str, error: AgentError) -> None:
        """Sends the events of a refused batch one by one; those that are refused
        again count as dropped."""
        if len(self._outbox) == 1:
            self._queue.lose(1)
            log.error("vigil: the agent refused an event: %s", error)
            return
        batch, self._outbox = self._outbox, []
        for event in batch:
            try:
                self._reporter.call("Report", {"sessionId": session, "events": [event]})
            except AgentError as e:
                if e.code != INVALID:
                    raise
                self._queue.lose(1)
                log.error("vigil: the agent refused an event: %s", e)

    def call(self, method: str, body: Dict[str, Any], patience: float, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Makes a call with the session of the moment, on a connection of its
        own. When the session turns out to be gone, as after a restart of the
        agent, it is made again with the next one, which is waited for that long."""
        end = time.monotonic() + patience
        gone, not_found = "", 0
        while True:
            session = self._await(gone, end - time.monotonic())
            if not session:
                raise AgentError(UNAVAILABLE, "no agent answers at %s" % self._settings.socket)
            client = Client(self._settings.socket, timeout or self._settings.call_seconds)
            try:
                return client.call(method, dict(body, sessionId=session))
            except AgentError as e:
                not_found += e.code == NOT_FOUND
                if e.code not in (NOT_FOUND, UNAVAILABLE) or not_found > 1 or not self._changes(session):
                    raise
                gone = session
            finally:
                client.close()

    def _await(self, gone: str, seconds: float) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._session not in ("", gone) or self.over.is_set(), max(0.0, seconds))
            return self._session if self._session != gone else ""

    def _changes(self, session: str) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._session != session, 0.2)
