"""Archives: what they may hold, what is refused, and that nothing of them gets out."""

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from veridical.data import load_images, load_labeled, open_images
from veridical.data.images import digest


def png(value=1):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(content, format="PNG")
    return content.getvalue()


def member(name, content=b"", **facts):
    found = tarfile.TarInfo(name)
    found.size = len(content)
    for fact, value in facts.items():
        setattr(found, fact, value)
    return found, content


def write_tar(path, members, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for found, content in members:
            archive.addfile(found, io.BytesIO(content))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for found, content in members:
            archive.writestr(found.name, content)
    return path


FORMS = {
    "a.zip": write_zip,
    "a.tar": write_tar,
    "a.tar.gz": lambda path, members: write_tar(path, members, "w:gz"),
    "a.tgz": lambda path, members: write_tar(path, members, "w:gz"),
    "B.TAR": lambda path, members: write_tar(path, members, format=tarfile.GNU_FORMAT),
}
PETS = [member("cat/1.png", png(1)), member("cat/2.png", png(2)), member("dog/1.png", png(3))]


@pytest.fixture(params=FORMS)
def pack(request, tmp_path):
    return lambda members: FORMS[request.param](tmp_path / request.param, members)


def first_values(found):
    return [np.asarray(one)[0, 0, 0].item() for one in found.images]


def test_every_form_gives_the_same_images(pack):
    found = load_images(pack(PETS))
    assert found.names == ("cat/1.png", "cat/2.png", "dog/1.png") and found.classes == ("cat", "dog")
    assert first_values(found) == [1, 2, 3] and found.labels == (0, 0, 1) and not found.skipped
    assert found.sha256 == tuple(digest(png(value)) for value in (1, 2, 3))


def test_images_are_read_in_any_order_and_again_in_another_process(pack):
    source = open_images(pack(PETS))
    later = source.photographs(later=True).images
    assert [np.asarray(later[place])[0, 0, 0] for place in (2, 0, 1, 2)] == [3, 1, 2, 3]
    copy = pickle.loads(pickle.dumps(source.read))
    assert copy.packed is None and np.asarray(copy(1)[0])[0, 0, 0] == 2


def test_a_path_that_leads_out_is_skipped_with_the_reason(pack, tmp_path):
    out = [member("../dog/3.png", png()), member("/dog/4.png", png()), member("dog/../../5.png", png())]
    found = load_images(pack([*PETS, *out]))
    assert found.names == tuple(one.name for one, _ in PETS)
    assert dict(found.skipped) == {one.name: "a path that leads out of the archive" for one, _ in out}
    assert {path.name for path in tmp_path.rglob("*")} == {
        path.name for path in tmp_path.iterdir() if path.is_file()
    }


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    found = load_images(write_tar(tmp_path / "a.tar", [*PETS, member("cat/1.png", png(9))]))
    assert found.names == tuple(one.name for one, _ in PETS) and first_values(found) == [9, 2, 3]


def test_links_and_devices_are_not_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    kinds = {
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "disk": tarfile.BLKTYPE,
    }
    odd = [member(f"dog/{name}.png", type=kind, linkname=str(secret)) for name, kind in kinds.items()]
    holes = member("dog/holes.png", type=tarfile.GNUTYPE_SPARSE)
    found = load_images(
        write_tar(tmp_path / "a.tar", [member("dog", type=tarfile.DIRTYPE), *PETS, *odd, holes])
    )
    assert len(found) == 3
    reasons = dict(found.skipped)
    assert reasons.keys() == {f"dog/{name}.png" for name in (*kinds, "holes")}
    assert reasons["dog/link.png"] == reasons["dog/hard.png"] == "a link; only files are read"
    assert reasons["dog/pipe.png"] == reasons["dog/holes.png"] == "no plain file; only files are read"


def test_long_and_foreign_names(tmp_path):
    long = f"cat/{'x' * 300}.png"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        found = load_images(write_tar(tmp_path / "a.tar", [*PETS, member(long, png(5))], format=form))
        assert found.names[-2] == long and first_values(found)[-2] == 5
    path = write_tar(
        tmp_path / "a.tar", [*PETS, member("cat/\udcff.png", png())], format=tarfile.GNU_FORMAT,
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    (skipped,) = load_images(path).skipped
    assert skipped[1] == "its name is not UTF-8" and skipped[0].encode("utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole: whole[:100], "truncated|unexpected|bad"),
        (lambda whole: whole[: 512 + 30], "unexpected end of data"),
        (lambda whole: whole[:1024], "cut off after 1 members"),
        (lambda whole: whole[:1030], "cut off after 1 members"),
        (lambda whole: whole[:1024] + b"x" * 512 + whole[1536:], "damaged or cut off after 1 members"),
        (lambda whole: b"no archive" * 60, "invalid header"),
        (lambda whole: b"", "empty file"),
    ],
)  # fmt: skip
def test_a_damaged_tar_is_an_error_and_not_a_shorter_one(tmp_path, change, words):
    path = write_tar(tmp_path / "a.tar", PETS, format=tarfile.GNU_FORMAT)
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    with pytest.raises(ValueError, match=rf"expected a whole tar archive, got .*(?:{words}).*copy it again"):
        open_images(path)


def test_a_negative_size_does_not_lead_in_circles(tmp_path):
    header = bytearray(member("cat/1.png", b"")[0].tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # minus 1024 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) * 4 + bytes(1024))
    with pytest.raises(ValueError, match="expected a whole tar archive"):
        open_images(tmp_path / "a.tar")


def test_headers_within_headers_end(tmp_path):
    name = member("cat/1.png", b"x" * 20, type=tarfile.GNUTYPE_LONGNAME)[0].tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes((name + b"x" * 512) * 3000 + bytes(1024))
    with pytest.raises(ValueError, match="expected a whole tar archive"):
        open_images(tmp_path / "a.tar")


def test_a_file_that_was_cut_after_it_was_listed(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*PETS, member("dog/2.png", png() + bytes(100_000))])
    source = open_images(path)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(ValueError, match=r"cut off in the archive after \d+ of \d+ bytes"):
        source.read(3)


@pytest.mark.parametrize(
    "change", [lambda whole: whole[:-20], lambda whole: b"no gzip", lambda whole: whole[:9]]
)
def test_a_damaged_gzip_is_named(tmp_path, change):
    path = FORMS["a.tar.gz"](tmp_path / "a.tar.gz", PETS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="expected a whole gzip file"):
        open_images(path)


def test_a_gzip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(5_000_000)))
    monkeypatch.setattr("veridical.data._packed.MAX_UNPACKED", 1_000_000)
    with pytest.raises(ValueError, match="at most 1000000 bytes when unpacked, got more"):
        open_images(tmp_path / "a.tar.gz")


def pairs(*entries):
    """Images and files of their class, as a shard of WebDataset has them."""
    found = []
    for key, text in entries:
        found += [member(f"{key}.jpg", png()), member(f"{key}.json", b"{}")]
        found += [] if text is None else [member(f"{key}.cls", text)]
    return found


def test_pairs_of_image_and_class(pack):
    found = load_images(pack(pairs(("000", b"9"), ("001", b"10\n"), ("002", b"9"))))
    assert found.names == ("000.jpg", "001.jpg", "002.jpg")
    assert found.classes == ("9", "10") and found.labels == (0, 1, 0)
    assert [name for name, _ in found.skipped] == ["000.json", "001.json", "002.json"]


def test_pairs_in_folders_and_with_words_take_the_class_beside_them(pack):
    found = load_images(pack(pairs(("train/a.b", b"gray cat"), ("test/a.b", b"dog"))))
    assert found.names == ("test/a.b.jpg", "train/a.b.jpg")
    assert [found.classes[label] for label in found.labels] == ["dog", "gray cat"]


@pytest.mark.parametrize("text", [None, b"", b" \n", b"\xff", b"a\x00b", b"7" * 201, b"a\nb"])
def test_an_image_without_a_usable_class_is_skipped(pack, text):
    found = load_images(pack(pairs(("0", b"1"), ("1", text))))
    assert found.names == ("0.jpg",) and found.classes == ("1",)
    assert dict(found.skipped)["1.jpg"] == "no class in a .cls file of the same name beside it"


def test_a_class_file_outside_is_not_read(pack):
    found = load_images(pack([*PETS, member("../x.cls", b"1")]))
    assert found.classes == ("cat", "dog") and "leads out" in dict(found.skipped)["../x.cls"]


def test_a_flat_archive_has_images_without_labels(pack):
    found = load_images(pack([member("2.png", png(2)), member("1.png", png(1)), member("about.txt", b"x")]))
    assert found.names == ("1.png", "2.png") and first_values(found) == [1, 2]
    assert found.labels == () and found.classes == () and "about.txt" in dict(found.skipped)


def test_an_image_beside_the_folders_of_the_classes_is_not_used(pack):
    found = load_images(pack([*PETS, member("1.png", png())]))
    assert dict(found.skipped)["1.png"] == "outside of the folders of the classes" and len(found.names) == 3
    with pytest.raises(ValueError, match="got no usable image with a label"):
        load_labeled(pack([member("1.png", png())]))
