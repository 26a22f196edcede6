"""A tiny network as the live view looks at it, its server, and requests to it."""

import json
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import torch
from torch import nn

from networks import Sequential, images, seeded
from veridical.auditing import PRESETS, find_methods
from veridical.explore import ExploreServer, Subject

NAMES = ("cat.png", "dog.png", "<b>.png")
METHODS = ("gradient", "gradient-x-input", "lrp-zplus", "patternnet")


class Colors(nn.Module):
    """Takes any size of image; its class is the color with the largest mean, through a ReLU."""

    def forward(self, x):
        return torch.relu(x + 5).mean((2, 3))


class Slow:
    """Waits in functions of torch until it is let go, and counts how often it was called."""

    def __init__(self):
        self.calls, self.ended, self.begun, self.go = 0, 0, threading.Event(), threading.Event()

    def __call__(self, model, inputs, target=None):
        self.calls += 1
        self.begun.set()
        try:
            while not self.go.wait(0.005):
                torch.zeros(1).add_(1)
        finally:
            self.ended += 1
        return inputs.clone()


def tiny(**changes):
    facts = {
        "name": "tiny",
        "model": seeded(lambda: Sequential(), dtype=torch.float32),
        "inputs": images(len(NAMES), dtype=torch.float32),
        "names": NAMES,
        "methods": find_methods(METHODS, PRESETS["quick"]),
        "display": lambda found: ((found + 4) / 8).clamp(0, 1),
        "label": ("ant", "bee", "cat", "dog").__getitem__,
        "bounds": ([-4.0] * 3, [4.0] * 3),
    }
    return Subject(**{**facts, **changes})


@contextmanager
def serving(explored):
    with ExploreServer(explored) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def send(server, method, path, body=None, headers=None):
    """Send a request and give (status, headers, body); JSON is read.

    The path is that behind the token; one that begins with // is a whole one, with a slash too many.
    """
    connection = HTTPConnection(*server.server_address[:2], timeout=60)
    whole = path[1:] if path.startswith("//") else f"/e/{server.token}{path}"
    content = json.dumps(body) if isinstance(body, dict) else body
    kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
    try:
        connection.request(method, whole, content, {**kind, **(headers or {})})
        reply = connection.getresponse()
        found = reply.read()
        read = json.loads(found) if reply.getheader("Content-Type") == "application/json" else found
        return reply.status, dict(reply.getheaders()), read
    finally:
        connection.close()
