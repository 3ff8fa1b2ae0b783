"""Saves the run that trains, with Python's standard library alone."""

import json
import os
import sys
import urllib.request


def call(base, method, message):
    """Calls a method and gives its response, or a stream's as they come."""
    request = urllib.request.Request(
        f"{base}/vigil.control.v1.{method}",
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["VIGIL_TOKEN"]},
    )
    return urllib.request.urlopen(request, timeout=10)


base = sys.argv[1]
with call(base, "RunService/ListRuns", {}) as response:
    runs = json.load(response)["runs"]
print([run["runId"] for run in runs])

with call(base, "CheckpointService/RequestCheckpoint", {"runId": runs[0]["runId"]}) as response:
    checkpoint = json.load(response)["checkpoint"]

# A stream is one JSON document a line.
with call(base, "CheckpointService/WatchCheckpoint", {"checkpointId": checkpoint["checkpointId"]}) as response:
    for line in response:
        print(json.loads(line)["result"]["checkpoint"]["state"])
