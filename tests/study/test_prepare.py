import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from veridical.records import RecordError
from veridical.study import StudyPlan, prepare, read_study
from veridical.study.record import picture_path


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_a_study_has_its_tasks_pairs_and_pictures(folder):
    study = read_study(folder)
    assert [task.name for task in study.tasks] == ["parts", "fractions", "object"]
    assert [len(task.pairs) for task in study.tasks] == [5, 10, 5]
    assert [task.questions for task in study.tasks] == [4, 4, 4]
    assert len(study.pictures()) == 2 * 20 + 5 + 2  # pairs, images, examples
    assert [len(task.examples) for task in study.tasks] == [2, 2, 0]
    assert all(pair.shown for pair in study.tasks[2].pairs)
    assert not any(pair.shown for task in study.tasks[:2] for pair in task.pairs)
    assert all(pair.a_fraction < pair.b_fraction for pair in study.tasks[1].pairs)
    assert study.tasks[2].pairs[0].a_fraction is None


def test_the_parts_share_a_color_range_and_other_maps_do_not(folder):
    study = read_study(folder)

    def strongest(name):
        values = np.asarray(Image.open(picture_path(folder, name))).astype(int)
        return values.max(axis=2).max() - values.min(axis=2).min()

    whole = [(strongest(pair.a), strongest(pair.b)) for pair in study.tasks[0].pairs]
    own = [(strongest(pair.a), strongest(pair.b)) for pair in study.tasks[1].pairs]
    assert any(min(both) < 255 for both in whole) and all(both == (255, 255) for both in own)


def test_the_same_plan_gives_the_same_bytes(sources, tmp_path, folder):
    prepare(tmp_path / "again", StudyPlan(**sources, questions=4))
    assert content(tmp_path / "again") == content(folder)


def test_names_of_pictures_do_not_tell_the_group(folder):
    assert all(name.isalnum() and len(name) == 20 for name in read_study(folder).pictures())


def test_a_folder_with_a_study_is_not_overwritten(folder, sources):
    with pytest.raises(ValueError, match="folder without a study"):
        prepare(folder, StudyPlan(**sources))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": None}, "material for a task"),
        ({"images": 0}, "images of 1 or more"),
        ({"questions": 0}, "questions of 1 or more"),
        ({"seed": -1}, "seed"),
        ({"compare": ("a", "a")}, "two maps"),
    ],
)
def test_plans_outside_their_range_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        StudyPlan(**{"parts": tmp_path, **options})


def test_a_map_of_zeros_is_named(tmp_path):
    np.save(tmp_path / "tangent.npy", np.zeros((1, 1, 8, 8)))
    np.save(tmp_path / "orthogonal.npy", np.ones((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="image 0, orthogonal part and tangent part"):
        prepare(tmp_path / "study", StudyPlan(parts=tmp_path))
    assert not (tmp_path / "study" / "study.json").exists()


def test_a_broken_study_is_refused(folder, tmp_path):
    with pytest.raises(RecordError, match="veridical study prepare"):
        read_study(tmp_path / "nowhere")
    path = folder / "study.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "seed": -4}))
    with pytest.raises(RecordError, match="'seed'"):
        read_study(folder)
    changed = json.loads(json.dumps(good))
    changed["tasks"][0]["pairs"][0]["a"] = "../../etc/passwd"
    path.write_text(json.dumps(changed))
    with pytest.raises(RecordError, match="pairs.0.a"):
        read_study(folder)
    path.write_text(json.dumps(good))
    next((folder / "pictures").iterdir()).unlink()
    with pytest.raises(RecordError, match="1 missing"):
        read_study(folder)


def test_asking_and_analyzing_load_no_torch():
    code = "import sys, veridical.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
