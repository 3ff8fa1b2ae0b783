"""What the tests share: the agent and the control plane that the Go test started."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest

SOCKET = os.environ.get("VIGIL_TEST_SOCKET", "")
API = os.environ.get("VIGIL_TEST_API", "")
BIN = os.environ.get("VIGIL_TEST_BIN", "")
HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)
PATIENCE = 240  # a guard against hanging; nothing is asserted of it


def needs_house(cls):
    """Skips tests where the Go test did not start an installation."""
    return unittest.skipUnless(SOCKET and API, "go test ./trainer/python starts what these talk to")(cls)


def needs(package):
    """Skips tests where a package is not installed."""
    import importlib.util

    return unittest.skipUnless(importlib.util.find_spec(package), "needs " + package)


def operator(method, body):
    """Calls an operator's method and gives the answer's documents, one a line."""
    c = http.client.HTTPConnection(API, timeout=PATIENCE)
    c.request("POST", "/vigil.control.v1." + method, json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read().decode()
    c.close()
    if r.status != 200:
        raise RuntimeError(text)
    return [json.loads(line) for line in text.splitlines() if line]


def events(run):
    """A run's events, each as a mapping with one body."""
    try:
        documents = operator("RunService/WatchEvents", {"runId": run})
    except RuntimeError:
        return []  # not known yet
    found = []
    for d in documents:
        event = (d.get("result") or d).get("event")
        if event:
            found.append(event["event"])
    return found


def bodies(run, kind):
    """The bodies of a run's events of one kind."""
    return [e[kind] for e in events(run) if kind in e]


def eventually(what, holds):
    """Waits until a condition gives something true, and gives that."""
    end = time.monotonic() + PATIENCE
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError("waited %d s for %s" % (PATIENCE, what))
        time.sleep(0.02)


def steps(run):
    """A run's step reports by step."""
    found = {}
    for s in bodies(run, "step"):
        found.setdefault(int(s["step"]), {}).update({k: v for k, v in s.items() if v != {}})
    return found


def verified(run, at_least=0):
    """Waits for a verified checkpoint of a run, and gives its step."""
    def look():
        for c in bodies(run, "checkpoint"):
            if c["state"] == "CHECKPOINT_STATE_VERIFIED" and int(c.get("step", 0)) >= at_least:
                return int(c["step"]) or -1
    return eventually("a verified checkpoint of " + run, look)


def environment(run, **more):
    """The environment of a training process of a run."""
    env = dict(os.environ, VIGIL_SOCKET=SOCKET, VIGIL_RUN_ID=run, PYTHONPATH=PACKAGE)
    env.update({k: str(v) for k, v in more.items()})
    return env


def spawn(script, run, *args, **more):
    """Starts a training script of this directory or of the examples."""
    path = os.path.join(HERE, script) if os.path.exists(os.path.join(HERE, script)) else os.path.join(PACKAGE, script)
    return subprocess.Popen([sys.executable, path, *args], env=environment(run, **more),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def supervised(script, run, *args, **more):
    """Starts a training script under the supervisor."""
    path = os.path.join(PACKAGE, script)
    env = environment(run, **more)
    env.pop("VIGIL_RUN_ID")
    return subprocess.Popen([os.path.join(BIN, "vigil-trainer"), "run", "--socket", SOCKET, "--run-id", run, "--",
                             sys.executable, path, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process, code=0):
    """Waits for a process and gives its output; fails when its code is another."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, _ = process.communicate()
        raise AssertionError("the process does not end:\n" + out[-4000:])
    if process.returncode != code:
        raise AssertionError("exit code %s, want %s:\n%s" % (process.returncode, code, out[-6000:]))
    return out


def digest(output):
    """The digest of the final parameters that a training script prints."""
    lines = [line for line in output.splitlines() if line.startswith("parameters sha256 ")]
    if not lines:
        raise AssertionError("no digest in:\n" + output[-4000:])
    return lines[-1].split()[-1]


class silent_agent:
    """A socket that takes connections and never answers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(8)

    def close(self):
        self.socket.close()
