"""What a study folder holds: `study.json`, `pictures/`, and `answers.sqlite` once somebody was invited."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veridical.records import RecordError, explain_invalid, read_json, write_json

STUDY_FILE = "study.json"
PICTURES = "pictures"

TaskName = Literal["parts", "fractions", "object"]
Group = Literal["A", "B"]
PictureName = Field(pattern=r"^[0-9a-f]{20}$")


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Example(_Stored):
    """A picture of an introduction; `text` says what it shows, for everybody and for screen readers."""

    picture: str = PictureName
    text: str


class Pair(_Stored):
    """Two pictures of which a participant chooses one; B is the one nearer to the tangent space.

    `image` is the index in the arrays that the study was prepared from, `shown` the picture of that image
    where the task shows it, and a fraction is None where it was not given.
    """

    image: int
    a: str = PictureName
    b: str = PictureName
    shown: str | None = Field(default=None, pattern=r"^[0-9a-f]{20}$")
    a_map: str
    b_map: str
    a_fraction: float | None = None
    b_fraction: float | None = None


class Task(_Stored):
    """One A/B task: its words, its pairs, and how many of them a participant is asked."""

    name: TaskName
    title: str
    instructions: list[str]
    question: str
    examples: list[Example] = []
    rendering: str
    questions: int = Field(ge=1)
    pairs: list[Pair] = Field(min_length=1)


class Study(_Stored):
    """The content of `study.json`. Titles, instructions, questions and consent may be edited before use."""

    format: Literal[1] = 1
    title: str
    consent: list[str]
    seed: int = Field(ge=0)
    tasks: list[Task] = Field(min_length=1, max_length=3)

    def pictures(self) -> frozenset[str]:
        """The names of all pictures."""
        pairs = [pair for task in self.tasks for pair in task.pairs]
        found = {name for pair in pairs for name in (pair.a, pair.b, pair.shown) if name is not None}
        return frozenset(found | {example.picture for task in self.tasks for example in task.examples})

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            KeyError: the study has none.
        """
        return {task.name: task for task in self.tasks}[name]  # type: ignore[index]


def picture_path(folder: Path, name: str) -> Path:
    """Where a picture of a study lies."""
    return folder / PICTURES / f"{name}.png"


def write_study(folder: Path, study: Study) -> None:
    """Write `study.json`."""
    write_json(folder / STUDY_FILE, study.model_dump(mode="json"))


def read_study(folder: str | Path) -> Study:
    """Read and check a prepared study.

    Args:
        folder: that `prepare` wrote.

    Raises:
        RecordError: there is no study, a field is wrong, or a picture is missing.
    """
    path = Path(folder) / STUDY_FILE
    if not path.is_file():
        raise RecordError(f"expected a study in {folder}, got no {STUDY_FILE}; run `veridical study prepare`")
    try:
        study = Study.model_validate(read_json(path))
    except ValidationError as error:
        raise RecordError(f"{explain_invalid(path, error)}; restore the file or prepare again") from error
    missing = sorted(name for name in study.pictures() if not picture_path(Path(folder), name).is_file())
    if missing:
        raise RecordError(
            f"expected {len(study.pictures())} pictures in {folder}/{PICTURES}, got none named "
            f"{missing[0]}.png ({len(missing)} missing); prepare the study again"
        )
    return study
