"""Labeled images from every kind of source; what cannot be used is named."""

import gzip
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.data import load_labeled, open_images, parts_of


def png(color, size=(8, 8)):
    content = BytesIO()
    Image.new("RGB", size, color).save(content, format="PNG")
    return content.getvalue()


FILES = {
    "dog/1.png": png((0, 0, 255)),
    "cat/2.png": png((255, 0, 0)),
    "cat/1.png": png((0, 255, 0)),
}


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


@pytest.fixture(params=["folder", "zip", "nested zip", "tar", "nested tar.gz"])
def write(request, tmp_path):
    def writer(files):
        if request.param == "folder":
            return write_folder(tmp_path / "images", files)
        above, form = "all/" if "nested" in request.param else "", request.param.split()[-1]
        pack = write_zip if form == "zip" else write_tar
        return pack(tmp_path / f"images.{form}", {above + name: one for name, one in files.items()})

    return writer


def test_one_folder_a_class(write):
    found = load_labeled(write(FILES))
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1]
    assert found.images.dtype == torch.uint8 and found.images.shape == (3, 3, 8, 8)
    assert found.images[:, :, 0, 0].tolist() == [[0, 255, 0], [255, 0, 0], [0, 0, 255]]
    assert found.counts == {"cat": 2, "dog": 1} and not found.skipped and len(found) == 3


def test_broken_files_are_listed_with_their_reason(write):
    broken = {
        "cat/3.png": FILES["cat/1.png"][:40],
        "cat/4.txt": b"hello",
        "dog/5.jpg": b"",
        "dog/6.png": b"x",
    }
    found = load_labeled(write(FILES | broken))
    assert len(found) == 3 and len(found.skipped) == 4
    reasons = {name.rpartition("/")[2]: reason for name, reason in found.skipped}
    assert "suffix '.txt'" in reasons["4.txt"]
    assert "none that Pillow knows" in reasons["6.png"] and reasons["3.png"] and reasons["5.jpg"]


def test_sizes_must_agree_unless_a_side_is_given(write):
    source = write(FILES | {"cat/3.png": png((9, 9, 9), (20, 10))})
    with pytest.raises(ValueError, match=r"one size, got 2 sizes \(8 x 8, 10 x 20\); give a side"):
        load_labeled(source)
    found = load_labeled(source, side=8, channels=1)
    assert found.images.shape == (4, 1, 8, 8) and found.resized == 1
    assert found.images[2].unique().tolist() == [9]


def test_a_class_without_a_usable_image_is_an_error(write):
    with pytest.raises(ValueError, match="a usable image of every class.*got none of owl"):
        load_labeled(write(FILES | {"owl/1.png": b"x"}))


def test_nothing_usable_is_an_error(write):
    with pytest.raises(ValueError, match="at least one usable image"):
        load_labeled(write({"cat/1.png": b"x"}))


def test_what_is_beside_the_classes_is_named_and_hidden_files_are_not(tmp_path):
    files = FILES | {"readme.png": png((1, 1, 1)), ".hidden/1.png": b"x", "cat/.DS_Store": b"x"}
    (tmp_path / "folder" / "cat" / "deeper").mkdir(parents=True)
    from_folder = load_labeled(write_folder(tmp_path / "folder", files))
    from_zip = load_labeled(write_zip(tmp_path / "a.zip", files | {"__MACOSX/cat/1.png": b"x"}))
    assert [name for name, _ in from_folder.skipped] == ["cat/deeper", "readme.png"]
    assert [name for name, _ in from_zip.skipped] == ["readme.png"]


def test_an_archive_with_two_sets_is_refused(tmp_path):
    files = {f"{part}/{name}": one for part in ("train", "test") for name, one in FILES.items()}
    with pytest.raises(ValueError, match="one place for the classes .* got test, train; pack one archive"):
        load_labeled(write_zip(tmp_path / "a.zip", files))


def test_damaged_archives_are_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected a whole zip archive"):
        load_labeled(path)
    # One member whose bytes were changed: the others can be used.
    start = whole.index(b"cat/2.png") + len("cat/2.png") + 10
    path.write_bytes(
        whole[:start] + bytes(byte ^ 255 for byte in whole[start : start + 5]) + whole[start + 5 :]
    )
    found = load_labeled(path)
    assert len(found) == 2 and "damaged or locked" in dict(found.skipped)["cat/2.png"]


def test_a_member_of_absurd_size_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("veridical.data._archives.MAX_BYTES", 500)
    files = FILES | {"cat/3.png": b"0" * 501}
    assert (
        "expected at most 500"
        in dict(load_labeled(write_zip(tmp_path / "a.zip", files)).skipped)["cat/3.png"]
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing", FileNotFoundError, "nothing of this name"),
        ("a.rar", ValueError, r"a folder, a \.zip, a \.tar, a \.csv or an"),
    ],
)
def test_sources_of_other_kinds_are_refused(tmp_path, name, error, message):
    (tmp_path / "a.rar").write_bytes(b"x")
    for function in (load_labeled, parts_of):
        with pytest.raises(error, match=message):
            function(tmp_path / name)


def test_wrong_options_are_named(tmp_path):
    source = write_folder(tmp_path / "images", FILES)
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        load_labeled(source, channels=2)
    with pytest.raises(ValueError, match="side of at least one"):
        load_labeled(source, side=0)
    with pytest.raises(ValueError, match="a source with parts for 'train'"):
        load_labeled(source, part="train")


def test_subsets_and_splits_belong_to_the_seed(tmp_path):
    images = np.arange(30, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(30) % 3)
    whole = load_labeled(tmp_path / "a.npz", channels=1)

    def members(part):
        return set(part.images[:, 0, 0, 0].tolist())

    small, large, other = whole.subset(5, 1), whole.subset(10, 1), whole.subset(10, 2)
    assert members(small) < members(large) != members(other)
    assert (large.images[:, 0, 0, 0].long() % 3).equal(large.labels)
    assert large.sha256 == whole.subset(10, 1).sha256 != other.sha256
    train, held = whole.split(0.1, 3)
    assert len(held) == 3 and len(train) == 27 and not members(train) & members(held)
    for count in (0, 31):
        with pytest.raises(ValueError, match=f"1 to 30 images, got {count}"):
            whole.subset(count)
    for share in (0, 1, 0.99):
        with pytest.raises(ValueError, match="expected a share"):
            whole.split(share)


def test_npz_with_parts_and_color(tmp_path):
    path = tmp_path / "a.npz"
    color = np.zeros((2, 8, 8, 3), np.uint8)
    color[1, ..., 2] = 9
    gray = np.full((4, 8, 8), 7, np.uint8)
    np.savez(path, train_images=color, train_labels=[[0], [1]], test_images=gray, test_labels=[0, 1, 1, 0])
    assert parts_of(path) == ("train", "test")
    assert load_labeled(path, part="train").images[1, :, 0, 0].tolist() == [0, 0, 9]
    test = load_labeled(path, part="test")
    assert test.images.shape == (4, 3, 8, 8) and test.labels.tolist() == [0, 1, 1, 0]
    assert test.classes == ("0", "1") and test.images.unique().tolist() == [7]
    assert load_labeled(path, part="test", side=4, channels=1).resized == 4
    assert load_labeled(path, part="train", channels=1).images.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="expected a part without a name.*got train, test"):
        load_labeled(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8)), "labels": [0, 1]}, "images as uint8"),
        ({"images": np.zeros((2, 8), np.uint8), "labels": [0, 1]}, "images as uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0]}, "2 labels of 0 or more"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0, -1]}, "2 labels of 0 or more"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0.0, 1.0]}, "2 labels of 0 or more"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": [0, 2]}, "got none of 1"),
        ({"images": np.array([{}], dtype=object), "labels": [0]}, "expected arrays of numbers"),
        ({"x": [0]}, "expected a part without a name"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_labeled(tmp_path / "a.npz")


def test_a_damaged_npz_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"expected a whole \.npz file"):
        load_labeled(tmp_path / "a.npz")


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_files_of_mnists_format(tmp_path, suffix):
    pack = gzip.compress if suffix else bytes
    images = np.arange(3 * 8 * 9).reshape(3, 8, 9)
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    assert parts_of(tmp_path) == ("train",)
    with pytest.raises(ValueError, match="store labels beside the array"):
        load_labeled(tmp_path, part="train")
    unlabeled = open_images(tmp_path)
    assert unlabeled.labels is None and unlabeled.classes == () and len(unlabeled) == 3
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.array([1, 0, 1]))))
    found = load_labeled(tmp_path, part="train", channels=1)
    assert np.array_equal(found.images[:, 0].numpy(), images.astype(np.uint8))
    assert found.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="expected a part test .* got train"):
        load_labeled(tmp_path, part="test")
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)[:-1]))
    with pytest.raises(ValueError, match="bytes in MNIST's format"):
        load_labeled(tmp_path, part="train")


def test_a_damaged_gzip_file_is_named(tmp_path):
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="expected a whole file"):
        load_labeled(tmp_path, part="train")


@pytest.mark.real_data
def test_mnist_and_cifar10(data_folder):
    digits = load_labeled(data_folder / "MNIST" / "raw", part="test", channels=1)
    assert digits.images.shape == (10000, 1, 28, 28) and digits.counts["1"] == 1135
    photographs = load_labeled(data_folder / "cifar10" / "test.zip")
    assert photographs.images.shape == (10000, 3, 32, 32) and set(photographs.counts.values()) == {1000}
    assert photographs.classes[3] == "cat" and not photographs.skipped
