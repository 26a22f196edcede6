"""Every form of images that a command takes, by one function, and which of them are taken."""

import gzip
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_set import tiny_set
from veridical.data import class_numbers, load_images, load_labeled, open_images, open_labeled, parts_of
from veridical.data.source import draw_order
from veridical.manifold.generative_store import store_rows


def png(color=(1, 2, 3), size=(8, 8)):
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, format="PNG")
    return content.getvalue()


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


def arrays(path, **more):
    pixels = np.arange(4 * 8 * 9, dtype=np.uint8).reshape(4, 8, 9)
    np.savez(path, **({"images": pixels, "labels": [0, 1, 1, 0]} | more))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    from veridical.data import _files

    names = []
    real = _files.decode

    def counted(content, name, max_pixels):
        names.append(name)
        return real(content, name, max_pixels)

    monkeypatch.setattr("veridical.data._files.decode", counted)
    return names


def test_a_folder_with_images_has_no_labels_and_one_of_folders_has(tmp_path):
    flat = open_images(write(tmp_path / "flat", "b.png", "a.png", "more/c.png"))
    assert flat.names == ("a.png", "b.png") and flat.labels is None and flat.classes == ()
    assert dict(flat.ignored)["more"].startswith("a folder")
    nested = open_images(write(tmp_path / "nested", "10/a.png", "9/a.png", "9/b.png"))
    assert nested.names == ("10/a.png", "9/a.png", "9/b.png")
    assert nested.classes == ("9", "10") and nested.labels.tolist() == [1, 0, 0]
    found = nested.photographs()
    assert found.labels == (1, 0, 0) and found.classes == ("9", "10") and found.available == 3


def test_only_what_is_taken_is_decoded(tmp_path, decoded):
    names = [f"{label}/{index:02}.png" for label in "abcde" for index in range(40)]
    source = open_images(write(tmp_path, *names))
    assert not decoded
    found = source.subset(5, 7).photographs()
    assert len(decoded) == len(found) == 5 and set(found.labels) == set(range(5))
    assert list(found.names) == sorted(found.names)
    assert len(load_labeled(tmp_path)) == 200


def test_a_broken_file_is_replaced_by_the_next_one_that_is_drawn(tmp_path):
    source = open_images(write(tmp_path, *(f"{index}.png" for index in range(9))))
    before = source.subset(3, 1).photographs()
    (tmp_path / before.names[1]).write_bytes(b"broken")
    after = source.subset(3, 1).photographs()
    assert len(after) == 3 and set(before.names) - set(after.names) == {before.names[1]}
    assert [name for name, _ in after.skipped] == [before.names[1]]
    assert len(source.subset(3, 1).arrays()) == 3


def test_too_many_broken_files_are_an_error(tmp_path):
    write(tmp_path, "a.png", "b.png")
    for name in ("c.png", "d.png"):
        (tmp_path / name).write_bytes(b"broken")
    assert len(open_images(tmp_path).photographs(max_broken=2)) == 2
    for read in (open_images(tmp_path).photographs, open_images(tmp_path).arrays):
        with pytest.raises(ValueError, match=r"at most 1 files .* got 2 beside 2 .*--max-broken"):
            read(max_broken=1)


def test_draws_belong_to_the_seed_and_keep_the_shares_of_the_classes():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100)]
    order = draw_order(100, labels, 3)
    assert sorted(order.tolist()) == list(range(100))
    assert order.equal(draw_order(100, labels, 3)) and not order.equal(draw_order(100, labels, 4))
    for count in (10, 20, 50):
        found = torch.bincount(labels[order[:count]], minlength=3)
        assert (found - count * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1
    plain = draw_order(100, None, 3)
    assert sorted(plain.tolist()) == list(range(100)) and not plain.equal(order)
    assert len(draw_order(0, None, 0)) == 0


def test_any_image_can_be_drawn_first_and_those_of_large_classes_a_little_more_often():
    labels = torch.tensor([0] * 6 + [1] * 2)
    firsts = torch.bincount(torch.tensor([int(draw_order(8, labels, seed)[0]) for seed in range(900)]))
    # The larger class starts in [0, 1/6), the smaller one in [0, 1/2): 5/6 for 3/4 of the images.
    assert firsts.min() > 0 and abs(int(firsts[:6].sum()) / 900 - 5 / 6) < 0.05


def test_choices_that_cannot_be_met_are_named(tmp_path):
    source = open_images(write(tmp_path, "a.png", "b.png"))
    assert len(source.first(9).photographs()) == 2
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"a subset of 1 to 2 images, got {count}"):
            source.subset(count)
    with pytest.raises(ValueError, match="limit of at least 1 image, got 0"):
        source.first(0)
    with pytest.raises(ValueError, match="expected a share"):
        source.split(1.0)
    one, other = source.split(0.5, 0)
    assert len(one) == len(other) == 1 and one.photographs().names != other.photographs().names


def table(folder, text, name="list.csv"):
    path = write(folder, "pictures/a.png", "b.png") / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pictures/a.png,dog\nb.png,cat\n", "list.csv"),
        ("id,Label, path\n1,dog,pictures/a.png\n2,cat,b.png\n\n", "list.csv"),
        ("\ufefffilename\tclass\npictures/a.png\tdog\nb.png\tcat\n", "list.tsv"),
    ],
)
def test_a_table_of_paths_and_labels(tmp_path, text, name):
    found = load_images(table(tmp_path, text, name))
    assert found.names == ("pictures/a.png", "b.png") and found.classes == ("cat", "dog")
    assert found.labels == (1, 0)


def test_a_table_without_labels_and_with_files_that_are_missing(tmp_path):
    found = load_images(table(tmp_path, "path\nb.png\nnotes.txt\ngone.png\n"))
    assert found.names == ("b.png",) and found.labels == () and found.classes == ()
    reasons = dict(found.skipped)
    assert "no such file" in reasons["gone.png"] and "suffix '.txt'" in reasons["notes.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 1 to"),
        ("path,label\n", "got only the names of the columns"),
        ("number,label\n1,2\n", "a column named one of path"),
        ("b.png,cat\nb.png,dog\n", "b.png again in line 2"),
        ("b.png,cat\npictures/a.png\n", "a path and a label in line 2"),
        ("path,label\n,cat\n", "a path and a label in line 2"),
        ('path\n"b.png\n', "expected a table in UTF-8"),
    ],
)
def test_wrong_tables_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        open_images(table(tmp_path, text))


def test_a_table_in_another_encoding_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("ä.png,1\n".encode("utf-16"))
    with pytest.raises(ValueError, match="expected a table in UTF-8"):
        open_images(tmp_path / "a.csv")


def test_parts_can_be_named_behind_the_path_and_unseen_ones_come_first(tmp_path):
    pixels = np.zeros((3, 8, 8), np.uint8)
    path = tmp_path / "a.npz"
    np.savez(
        path, train_images=pixels, train_labels=[0, 1, 2], val_images=pixels[:2], val_labels=[[0], [1]],
        test_images=pixels[:1], test_labels=[0],
    )  # fmt: skip
    assert parts_of(path) == ("train", "val", "test") and parts_of(f"{path}:val") == ()
    assert [len(open_images(path, part)) for part in ("train", "val", "test", None)] == [3, 2, 1, 1]
    assert open_images(f"{path}:val").names == ("val-0", "val-1")
    assert len(open_labeled(f"{path}:train")) == 3
    with pytest.raises(ValueError, match="expected a part extra"):
        open_images(path, "extra")
    with pytest.raises(FileNotFoundError, match="nothing of this name"):
        open_images(f"{path}:extra")


def test_arrays_of_other_channels_come_as_tensors(tmp_path):
    pixels = np.arange(2 * 8 * 9 * 5, dtype=np.uint8).reshape(2, 8, 9, 5)
    path = arrays(tmp_path / "a.npz", images=pixels, labels=[0, 1])
    found = load_images(path)
    assert found.images[1].shape == (5, 8, 9) and found.sizes == ((9, 8), (9, 8))
    assert torch.equal(found.images[1], torch.from_numpy(pixels[1]).permute(2, 0, 1) / 255)
    with pytest.raises(ValueError, match="gray or RGB images, got 5 channels"):
        load_labeled(path)
    arrays(path, images=np.zeros((1, 8, 8, 65), np.uint8), labels=[0])
    with pytest.raises(ValueError, match="C at most 64"):
        open_images(path)


def test_arrays_that_are_too_large_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("veridical.data._arrays.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes in images"):
        open_images(arrays(tmp_path / "a.npz"))


def test_a_label_beyond_all_reason_is_refused(tmp_path):
    with pytest.raises(ValueError, match="less than 100000"):
        open_images(arrays(tmp_path / "a.npz", labels=[0, 1, 2, 10**12]))


def test_what_has_no_labels_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="a folder of images for each class"):
        load_labeled(write(tmp_path / "flat", "a.png"))
    with pytest.raises(ValueError, match="no usable image with a label"):
        load_labeled(table(tmp_path / "table", "path\nb.png\n"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="which is empty"):
        open_images(tmp_path / "empty")


def test_images_without_labels_are_all_of_one_class_in_an_array(tmp_path):
    found = open_images(write(tmp_path, "a.png", "b.png")).arrays(channels=1)
    assert (
        found.classes == ("all",) and found.labels.tolist() == [0, 0] and found.images.shape == (2, 1, 8, 8)
    )


@pytest.mark.parametrize(
    ("names", "known", "count", "numbers"),
    [
        (("Cat", "dog "), ("dog", "owl", "cat"), 3, (2, 0)),
        (("7", "3"), None, 9, (7, 3)),
        (("7", "3"), ("a", "3", "7"), 3, (2, 1)),
        (("x", "y"), ("a", "b"), 2, (0, 1)),
        (("x", "y"), None, 3, None),
        (("9",), None, 9, None),
        # Some names are known, so their order is not the network's.
        (("cat", "x"), ("dog", "cat"), 2, None),
        (("crane", "cat"), ("crane", "crane", "cat"), 3, None),
        ((), None, 3, None),
    ],
)
def test_numbers_of_classes(names, known, count, numbers):
    found, words = class_numbers(names, known, count)
    assert found == numbers
    assert words.startswith("not known" if numbers is None else "by ")


class FakeSet:
    """As the data sets of torchvision: a class with a folder and a part."""

    classes = ("cat", ("dog", "hound"))

    def __init__(self, root, train=True, transform=None):
        if root == "nowhere":
            raise RuntimeError("Dataset not found.\n You can use download=True")
        self.targets = [0, 1, 1] if train else [1, 0]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.new("L", (8, 8), index) if index != 1 else np.zeros((8, 8))
        return image, self.targets[index]


class SplitSet(FakeSet):
    def __init__(self, root, split="train"):
        if split not in ("train", "extra"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self._labels = self.targets = ["a mask", "another"]


@pytest.fixture
def torchvision(monkeypatch):
    package = types.ModuleType("torchvision")
    package.datasets = types.ModuleType("torchvision.datasets")
    package.datasets.__all__ = ("FakeSet", "SplitSet", "function")
    package.datasets.FakeSet, package.datasets.SplitSet, package.datasets.function = FakeSet, SplitSet, len
    monkeypatch.setitem(sys.modules, "torchvision", package)


@pytest.mark.usefixtures("torchvision")
def test_data_sets_of_torchvision():
    assert parts_of("torchvision:FakeSet") == ("train", "test") and parts_of("torchvision:FakeSet:test") == ()
    found = load_images("torchvision:FakeSet:train@there")
    assert (
        found.names == ("train-0", "train-2") and found.labels == (0, 1) and found.classes == ("cat", "dog")
    )
    assert "got ndarray" in found.skipped[0][1] and found.source == "torchvision:FakeSet:train@there"
    assert len(open_images("torchvision:FakeSet")) == 2  # the test part
    assert open_labeled("torchvision:FakeSet", "train").labels.tolist() == [0, 1, 1]
    assert open_images("torchvision:SplitSet:extra").labels is None
    assert parts_of("torchvision:SplitSet") == ("train",)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("torchvision:FakeSett", "did you mean FakeSet"),
        ("torchvision:function", "expected a data set of torchvision"),
        ("torchvision:FakeSet:train@nowhere", "download it with torchvision.datasets.FakeSet"),
        ("torchvision:FakeSet:val", "only train and test"),
        ("torchvision:SplitSet:test", "Unknown value 'test'"),
    ],
)
def test_wrong_data_sets_of_torchvision_are_named(place, message):
    with pytest.raises(ValueError, match=message):
        open_images(place)


def test_a_missing_torchvision_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="expected a torchvision that works"):
        open_images("torchvision:MNIST")


@pytest.mark.real_data
def test_real_data_of_other_forms(data_folder, tmp_path):
    lungs = data_folder / "pneumoniamnist" / "pneumoniamnist.npz"
    assert [len(open_images(lungs, part)) for part in parts_of(lungs)] == [2428, 270, 468]
    found = load_images(lungs, 6, 0)
    assert len(found) == 6 and found.images[0].mode == "RGB" and set(found.labels) == {0, 1}
    pytest.importorskip("torchvision.datasets", reason="needs torchvision")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file in (data_folder / "MNIST" / "raw").glob("*.gz"):  # torchvision looks for the unpacked files
        (tmp_path / "MNIST" / "raw" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    digits = open_images(f"torchvision:MNIST:test@{tmp_path}")
    assert len(digits) == 10000 and digits.classes[3] == "3 - three"
    counts = digits.subset(100, 0).arrays(channels=1).counts.values()
    assert 7 <= min(counts) and max(counts) <= 13


@pytest.mark.parametrize("form", ["folder", "zip", "npz"])
def test_images_that_are_read_later(tmp_path, form, decoded):
    if form == "npz":
        place = arrays(tmp_path / "a.npz")
    elif form == "folder":
        place = write(tmp_path / "classes", "cat/a.png", "dog/b.png", "dog/c.png", "dog/d.png")
    else:
        place = tmp_path / "a.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name in ("cat/a.png", "dog/b.png", "dog/c.png", "dog/d.png"):
                archive.writestr(name, png())
    source = open_images(place).subset(3, 1)
    kept, later = source.photographs(), source.photographs(later=True)
    assert later.names == kept.names and later.sha256 == kept.sha256 and later.sizes == kept.sizes
    copy = pickle.loads(pickle.dumps(later.images))
    for images in (later.images, copy):
        assert len(images) == 3 and [one.tobytes() for one in images[1:]] == [
            one.tobytes() for one in kept.images[1:]
        ]
    if form == "folder":
        (place / later.names[0]).write_bytes(png((9, 9, 9)))
        with pytest.raises(ValueError, match="expected the image as it was before"):
            later.images[0]


def test_an_npz_without_labels_has_images(tmp_path):
    pixels = np.arange(3 * 8 * 9, dtype=np.uint8).reshape(3, 8, 9)
    np.savez(tmp_path / "a.npz", images=pixels)
    found = open_images(tmp_path / "a.npz")
    assert found.labels is None and np.array_equal(found.arrays(channels=1).images[:, 0], pixels)
    np.savez(tmp_path / "parts.npz", train_images=pixels, test_images=pixels[:2], test_labels=[0, 1])
    assert parts_of(tmp_path / "parts.npz") == ("train", "test")
    assert open_images(tmp_path / "parts.npz", "train").labels is None
    assert open_labeled(tmp_path / "parts.npz", "test").labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="store labels beside the array"):
        open_labeled(tmp_path / "parts.npz", "train")


def test_labels_that_begin_with_1_keep_their_numbers_as_names(tmp_path):
    found = open_images(arrays(tmp_path / "a.npz", labels=[2, 1, 3, 2]))
    assert found.classes == ("1", "2", "3") and found.labels.tolist() == [1, 0, 2, 1]
    assert found.arrays(channels=1).counts == {"1": 1, "2": 2, "3": 1}
    # Of a network that counts from 0 they mean its classes 1 to 3, of one with three classes all in order.
    assert class_numbers(found.classes, None, 4)[0] == (1, 2, 3)
    assert class_numbers(found.classes, None, 3)[0] == (0, 1, 2)


@pytest.fixture
def generated(tmp_path):
    """A data set with a known manifold, and one without parts whose images have two channels."""
    data = tiny_set(tmp_path / "set")
    shown = torch.arange(6 * 2 * 64).view(6, 2, 8, 8).float() / 1000
    manifest = data.manifest.model_copy(
        update={"parts": (("all", 6),), "shape": (2, 8, 8), "chunk": 4, "approach": "reconstructive"}
    )
    rows = {"images": shown, "labels": torch.arange(6) % 2, "latents": shown[:, 0, 0, :2].contiguous()}
    rows["position"] = torch.arange(6) + 1

    def blocks(position):
        yield {name: value[position:] for name, value in rows.items()}

    return data, store_rows(tmp_path / "whole", manifest, blocks, None)


def test_a_data_set_with_a_known_manifold_is_read(generated, tmp_path):
    data, whole = generated
    assert parts_of(tmp_path / "set") == ("train", "test")
    found = open_labeled(f"{tmp_path / 'set'}:test")
    assert found.names[0] == "test-0" and found.classes == ("0", "1")
    read = found.arrays(channels=1)
    assert torch.equal(read.labels, data.load("labels", "test"))
    assert torch.equal(read.images, (255 * data.load("images", "test").clamp(0, 1)).round().byte())
    assert len(open_images(tmp_path / "set")) == 8 and len(open_images(tmp_path / "set", "train")) == 40
    # Over the end of a file; no gray or RGB.
    assert parts_of(tmp_path / "whole") == ()
    several = open_images(tmp_path / "whole")
    assert several.labels.tolist() == [0, 1] * 3
    assert torch.equal(several.photographs().images[5], whole.load("images")[5])
    # As another process reads them.
    assert torch.equal(pickle.loads(pickle.dumps(several)).photographs().images[5], whole.load("images")[5])
    with pytest.raises(ValueError, match="expected a part 'val' in .* got train, test"):
        open_images(tmp_path / "set", "val")
    (tmp_path / "whole" / "part-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="expected rows of a data set in .*part-00001"):
        open_images(tmp_path / "whole")


@pytest.mark.parametrize("content", ["[1]", "{}", "no JSON"])
def test_a_file_of_this_name_by_another_program_is_not_looked_at(tmp_path, content):
    write(tmp_path / "folder", "a.png")
    (tmp_path / "folder" / "dataset.json").write_text(content)
    assert open_images(tmp_path / "folder").names == ("a.png",)
