"""Folders of photographs, and the photographs that are installed already."""

import hashlib
import socket

import pytest
from PIL import Image

from veridical.data import Images, load_folder, sample_photographs


@pytest.fixture
def folder(tmp_path):
    """Three images, a broken one, a text, a subfolder and a hidden file."""
    for index, name in enumerate(("c.png", "a.jpg", "b.PNG")):
        Image.new("RGB", (20 + index, 30), (index * 50, 0, 0)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    (tmp_path / ".hidden").write_text("not looked at")
    (tmp_path / "more").mkdir()
    return tmp_path


def test_all_usable_images_in_order(folder):
    images = load_folder(folder)
    assert isinstance(images, Images)
    assert images.names == ("a.jpg", "b.PNG", "c.png")
    assert images.sizes == ((21, 30), (22, 30), (20, 30))
    assert len(images) == len(images.images) == 3
    assert images.sha256[0] == hashlib.sha256((folder / "a.jpg").read_bytes()).hexdigest()


def test_the_rest_is_named_with_its_reason(folder):
    reasons = dict(load_folder(str(folder)).skipped)
    assert sorted(reasons) == ["broken.png", "more", "notes.txt"]
    assert "none that Pillow knows" in reasons["broken.png"]
    assert "suffix '.txt'" in reasons["notes.txt"]
    assert "a folder" in reasons["more"]


def test_limit_counts_usable_images(folder):
    assert load_folder(folder, limit=2).names == ("a.jpg", "b.PNG")
    assert load_folder(folder, limit=9).names == ("a.jpg", "b.PNG", "c.png")


@pytest.mark.parametrize("limit", [0, -1])
def test_wrong_limit(folder, limit):
    with pytest.raises(ValueError, match=f"limit of at least 1 image, got {limit}"):
        load_folder(folder, limit=limit)
    with pytest.raises(ValueError, match=f"limit of at least 1 image, got {limit}"):
        sample_photographs(limit)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_folder(tmp_path / "nowhere")


def test_file_instead_of_a_folder(folder):
    with pytest.raises(ValueError, match="name the folder that holds it"):
        load_folder(folder / "a.jpg")


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="which is empty; put photographs into it"):
        load_folder(tmp_path)


def test_folder_of_broken_images(tmp_path):
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"got none of 5 entries \(0.png: .*; and 2 more\)"):
        load_folder(tmp_path)


def test_samples_need_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("the test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    images = sample_photographs()
    assert images.names == tuple(sorted(images.names))
    assert len(images) == 5
    assert all(image.mode == "RGB" and min(image.size) >= 300 for image in images.images)
    assert images.skipped == ()


def test_samples_can_be_limited():
    assert sample_photographs(2).names == sample_photographs().names[:2]
