import json
import math

import numpy as np
import pytest

from veridical.records import (
    RecordError,
    Score,
    read_arrays,
    read_run,
    read_scores,
    write_arrays,
    write_bytes,
    write_scores,
)


def test_scores_survive_the_disk(tmp_path):
    scores = [Score("m", "t", "s", 1.5, image="a", n=3), Score("m", "t", "s", math.nan, layer="l")]
    write_scores(tmp_path, scores)
    found = read_scores(tmp_path)
    assert found[0].value == 1.5 and found[0].image == "a" and math.isnan(found[1].value)
    np.testing.assert_equal([vars(one) for one in found], [vars(one) for one in scores])
    write_scores(tmp_path, [])
    assert read_scores(tmp_path) == []


def test_arrays_keep_their_shape_and_order(tmp_path):
    """A number, as the counter of a batch normalization is one, stays without a dimension."""
    given = {"count": np.array(3), "turned": np.arange(6.0).reshape(2, 3).T, "none": np.zeros((0, 2))}
    write_arrays(tmp_path / "file.safetensors", given, {"name": "x"})
    found, metadata = read_arrays(tmp_path / "file.safetensors")
    assert metadata == {"name": "x"} and found["count"].shape == ()
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("change", [{"finished": "perhaps"}, {"format": 2}, {"images": [{}]}])
def test_a_wrong_field_is_named_with_its_file(change, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(change))
    with pytest.raises(RecordError, match=r"run.json: field '"):
        read_run(tmp_path)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"expected a file .*run.json"):
        read_run(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"no")
    with pytest.raises(RecordError, match="expected parquet"):
        read_scores(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["file"]
