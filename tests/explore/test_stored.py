import json
from threading import Event

import numpy as np
import pytest

from veridical.explore import StoredRun
from veridical.explore.asked import Look
from veridical.records import RUN_FILE, RecordError, write_arrays


def look(**changes):
    return Look(**{"image": 0, "method": "gradient", **changes})


def test_a_run_is_shown_as_it_was_stored(run_directory):
    run = StoredRun(run_directory)
    state = run.state()
    assert not state["live"] and [one["name"] for one in state["images"]] == ["0.png", "1.png", "2.png"]
    assert [one["name"] for one in state["methods"]] == ["gradient", "own"]
    assert state["images"][0]["classes"] == [{"target": 0, "label": "class 0", "probability": 0.9}]
    pictures = {run.draw(look(image=place), Event())["picture"] for place in range(3)}
    assert len(pictures) == 3


def test_at_most_so_many_images_are_shown_and_the_page_says_so(run_directory):
    state = StoredRun(run_directory, most=2).state()
    assert len(state["images"]) == 2 and "2 of 3 images are shown" in state["notes"][-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": 3}, "expected an image of 0 to 2, got 3"),
        ({"method": "../images"}, "expected a method of this page"),
        ({"method": "own"}, "expected a stored map of own"),
        ({"target": 1}, "--model"),
        ({"beta": 1.0}, "--model"),
        ({"noise": 0.1}, "--model"),
    ],
)
def test_what_was_not_stored_is_said(run_directory, change, words):
    with pytest.raises(ValueError, match=words):
        StoredRun(run_directory).draw(look(**change), Event())


def test_no_name_in_a_run_leads_out_of_its_folder(run_directory):
    content = json.loads((run_directory / RUN_FILE).read_text())
    content["methods"]["../../secret"] = {"options": ""}
    (run_directory / RUN_FILE).write_text(json.dumps(content))
    secret = {"original": np.ones((3, 8, 8), dtype=np.float32)}
    write_arrays(run_directory.parent / "secret.safetensors", secret)
    run = StoredRun(run_directory)
    assert "../../secret" not in run.methods
    with pytest.raises(ValueError, match="expected a method"):
        run.draw(look(method="../../secret"), Event())


def test_a_folder_without_a_run_or_photographs_is_refused(tmp_path, run_directory):
    with pytest.raises(RecordError, match="veridical audit"):
        StoredRun(tmp_path)
    (run_directory / "maps" / "images.safetensors").unlink()
    with pytest.raises(RecordError, match="photographs"):
        StoredRun(run_directory)


def test_a_stored_run_is_served_without_manipulation(run_directory, serve, ask_of):
    with serve(StoredRun(run_directory)) as server:
        body = {"image": 1, "method": "gradient", "page": "a", "view": 0}
        status, _, found = ask_of(server, "POST", "/map", body)
        assert status == 200 and found["signed"] and found["target"] == 0
        assert ask_of(server, "POST", "/map", {**body, "beta": 1.0})[0] == 422
        attack = {"image": 1, "method": "gradient", "other": 0, "steps": 5}
        for reply in (
            ask_of(server, "POST", "/manipulate", attack),
            ask_of(server, "POST", "/stop", {}),
            ask_of(server, "GET", "/manipulation"),
        ):
            assert reply[0] == 409 and "--model" in reply[2]["error"]
