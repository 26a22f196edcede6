"""A study of tiny maps with known fractions, and its server."""

import json
import shutil
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from veridical.study import StudyPlan, StudyServer, prepare

IMAGES, SIDE, QUESTIONS = 5, 8, 4


def make_arrays():
    """The basis of every image is the first two pixels."""
    generator = np.random.default_rng(3)
    shape = (IMAGES, 1, SIDE, SIDE)
    basis = np.zeros((IMAGES, 2, *shape[1:]))
    basis[:, 0, 0, 0, 0] = basis[:, 1, 0, 0, 1] = 1
    names = ("gradient", "gradient-x-input", "integrated-gradients")
    maps = {name: generator.standard_normal(shape) for name in names}
    return {"basis": basis, "images": generator.random(shape), **maps}


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A file for each task."""
    found, place = make_arrays(), tmp_path_factory.mktemp("sources")
    maps = {name: values for name, values in found.items() if name not in ("basis", "images")}
    save_file({"map": found["gradient"], "basis": found["basis"]}, place / "parts.safetensors")
    save_file({**maps, "basis": found["basis"]}, place / "fractions.safetensors")
    folder = place / "object"
    folder.mkdir()
    for name in ("images", "gradient", "gradient-x-input"):
        np.save(folder / f"{name}.npy", found[name])
    return {
        "parts": place / "parts.safetensors",
        "fractions": place / "fractions.safetensors",
        "object": folder,
    }


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, sources):
    place = tmp_path_factory.mktemp("prepared") / "study"
    prepare(place, StudyPlan(**sources, questions=QUESTIONS))
    return place


@pytest.fixture
def folder(tmp_path, prepared):
    """A copy of the prepared study, for one test."""
    return Path(shutil.copytree(prepared, tmp_path / "study"))


@contextmanager
def serving(folder, port=0):
    with StudyServer(folder, port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve():
    return serving


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture
def ask(server):
    """Send a request and give (status, headers, body)."""

    def send(method, path, body=None, headers=None):
        connection = HTTPConnection(*server.server_address[:2], timeout=10)
        try:
            content = json.dumps(body) if isinstance(body, dict) else body
            kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
            connection.request(method, path, content, {**kind, **(headers or {})})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    return send
