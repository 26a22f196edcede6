"""Data sets of Hugging Face on this machine, and streamed ones in place of the hub."""

import io
import sys

import pytest
from PIL import Image

from veridical.data import load_images, load_labeled, open_images, parts_of

datasets = pytest.importorskip("datasets", reason="needs the package datasets")
SIDE = 8


def png(value):
    content = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (value, 0, 0)).save(content, format="PNG")
    return content.getvalue()


def rows(count=6, start=0):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    content = {
        "image": [{"bytes": png(start + index), "path": None} for index in range(count)],
        "label": [index % 2 for index in range(count)],
    }
    return datasets.Dataset.from_dict(content, features=features)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def saved(tmp_path):
    rows().save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_folder_that_was_saved(saved):
    found = load_images(f"hf:{saved}", 4, 0)
    assert len(found) == 4 and sorted(found.labels) == [0, 0, 1, 1] and found.classes == ("cat", "dog")
    assert found.images[0].size == (SIDE, SIDE) and found.available == 6
    assert parts_of(f"hf:{saved}") == ()
    assert load_labeled(f"hf:{saved}").images[:, 0, 0, 0].tolist() == list(range(6))


def test_parts_of_a_folder_that_was_saved(tmp_path):
    parts = datasets.DatasetDict({"train": rows(4), "validation": rows(2, 100)})
    parts.save_to_disk(str(tmp_path / "both"))
    assert parts_of(f"hf:{tmp_path / 'both'}") == ("train", "validation")
    unseen = open_images(f"hf:{tmp_path / 'both'}").photographs()
    assert unseen.names == ("validation-0", "validation-1") and unseen.images[0].getpixel((0, 0))[0] == 100
    assert len(open_images(f"hf:{tmp_path / 'both'}", "val")) == 2
    assert len(open_images(f"hf:{tmp_path / 'both'}:train")) == 4
    with pytest.raises(OSError, match="expected the data set .* check its name, its split"):
        open_images(f"hf:{tmp_path / 'both'}:extra")


def test_a_parquet_file(tmp_path):
    rows().to_parquet(str(tmp_path / "a.parquet"))
    found = load_images(f"hf:{tmp_path / 'a.parquet'}", 2)
    assert found.names == ("image-0", "image-1") and found.classes == ("cat", "dog")


def test_broken_images_and_labels_of_other_kinds(tmp_path):
    content = {
        "image": [{"bytes": png(0), "path": None}, {"bytes": b"broken", "path": None}, None],
        "class": ["b", "a", "b"],
    }
    features = datasets.Features({"image": datasets.Image(), "class": datasets.Value("string")})
    datasets.Dataset.from_dict(content, features=features).save_to_disk(str(tmp_path / "broken"))
    found = load_images(f"hf:{tmp_path / 'broken'}")
    assert found.names == ("image-0",) and found.labels == (1,) and found.classes == ("a", "b")
    assert [name for name, _ in found.skipped] == ["image-1", "image-2"]


def test_a_set_without_images_or_with_unknown_labels(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(ValueError, match="expected a column of images in .* got text"):
        open_images(f"hf:{tmp_path / 'text'}")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    content = {"image": [{"bytes": png(0), "path": None}], "label": [-1]}
    datasets.Dataset.from_dict(content, features=features).save_to_disk(str(tmp_path / "hidden"))
    assert open_images(f"hf:{tmp_path / 'hidden'}").labels is None


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set of 500 rows, and the numbers of the rows that were fetched."""
    fetched = []
    table = rows(50)

    def stream():
        for index in range(500):
            fetched.append(index)
            yield {"image": {"bytes": png(index % 250), "path": None}, "label": table[index % 50]["label"]}

    def load(name, config, *, split, streaming):
        if name != "someone/pets" or split not in ("train", "test"):
            raise RuntimeError(f"no {name}\n of {split}")
        return (
            datasets.IterableDataset.from_generator(stream, features=table.features) if streaming else table
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["train", "test"])
    monkeypatch.setattr("veridical.data._huggingface.BUFFER", 20)
    return fetched


def test_a_stream_fetches_little_more_than_what_is_taken(hub):
    found = load_images("hf:someone/pets", 5, 3)
    assert len(found) == 5 and found.classes == ("cat", "dog") and found.source == "hf:someone/pets:test"
    assert len(hub) < 60
    assert found.sha256 == load_images("hf:someone/pets", 5, 3).sha256
    assert found.sha256 != load_images("hf:someone/pets", 5, 4).sha256


def test_all_of_a_set_is_downloaded_where_all_is_taken(hub):
    assert parts_of("hf:someone/pets") == ("train", "test")
    assert len(load_labeled("hf:someone/pets:train")) == 50 and not hub
    assert len(open_images("hf:someone/pets:default:train")) == 50


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("hf:someone/plants:test", OSError, "got no someone/plants of test; check its name"),
        ("hf:a:b:c:d", ValueError, "expected hf:NAME"),
        ("hf:a::b", ValueError, "expected hf:NAME"),
    ],
)
def test_wrong_names_are_one_line(hub, place, error, message):
    with pytest.raises(error, match=message):
        open_images(place)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="expected the package datasets"):
        open_images("hf:someone/pets")
