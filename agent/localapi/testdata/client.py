"""A trainer without dependencies: Python's standard library on a unix socket.

Usage: client.py SOCKET RUN. Registers, reports, and says "watching"; saves for
the first directive, prints what it resumes from, and then waits to be killed.
"""
import http.client
import json
import os
import socket
import sys


class Agent(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("agent")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def post(self, method, **fields):
        self.request("POST", "/vigil.trainer.v1.TrainerService/" + method,
                     json.dumps(fields), {"Content-Type": "application/json"})
        return self.getresponse()


def call(path, method, **fields):
    response = Agent(path).post(method, **fields)
    body = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"{method}: {response.status} {body['message']}")
    return body


path, run = sys.argv[1:]
session = call(path, "Register", runId=run, trainer={"worldSize": 1, "pid": os.getpid()},
               aFieldOfTheFuture=True)["sessionId"]
call(path, "Report", sessionId=session, dropped=2,
     events=[{"step": {"step": 1, "loss": "NaN", "taskLosses": {"left": 0.5}}}])
for line in Agent(path).post("WatchDirectives", sessionId=session):
    directive = json.loads(line)["result"].get("directive")
    if directive is None:
        print("watching", flush=True)
        continue
    order = directive["checkpoint"]
    begun = call(path, "BeginCheckpoint", sessionId=session, checkpointId=order["checkpointId"])
    with open(os.path.join(begun["stagingDirectory"], "weights.bin"), "w") as f:
        f.write("weights")
    call(path, "CommitCheckpoint", sessionId=session, checkpointId=order["checkpointId"],
         metadata={"step": 1, "worldSize": 1, "rank": 0, "nonfiniteParameters": 0})
    resume = call(path, "ResolveResume", sessionId=session, worldSize=1)["checkpoint"]
    print("saved", resume["checkpointId"], resume["metadata"]["step"], flush=True)
