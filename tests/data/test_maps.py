import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from veridical.data import load_map


def test_arrays_keep_their_values_and_pictures_give_their_brightness(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 7))
    np.save(tmp_path / "a.npy", values)
    save_file({"any": values[None].astype(np.float32)}, tmp_path / "b.safetensors")
    assert np.array_equal(load_map(tmp_path / "a.npy"), values)
    assert np.array_equal(load_map(str(tmp_path / "b.safetensors")), values.astype(np.float32))
    Image.new("RGB", (12, 9), (255, 0, 0)).save(tmp_path / "red.png")
    found = load_map(tmp_path / "red.png")
    assert found.shape == (9, 12) and found.dtype == np.float64 and np.all(found == 76)  # 0.299 * 255


def test_bools_and_integers_are_maps(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4, dtype=bool))
    assert load_map(tmp_path / "a.npy").sum() == 4.0


@pytest.mark.parametrize("values", [np.ones(4), np.ones((2, 4, 4)), np.ones((0, 4)), np.array(["a"])[None]])
def test_other_arrays_are_refused(values, tmp_path):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match="expected a map|expected real numbers"):
        load_map(tmp_path / "a.npy")


def test_a_header_that_promises_more_than_there_is(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4)))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole.replace(b"(4, 4)", b"(9999, 9999)".ljust(6))[:-20])
    with pytest.raises(ValueError, match="expected one map in"):
        load_map(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        load_map(tmp_path / "none.npy")
