"""From arrays to a study folder: pairs, pictures and `study.json`."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.records import write_bytes
from veridical.study import pictures, words
from veridical.study.material import MapPair, fractions_pairs, object_pairs, parts_pairs, read_source
from veridical.study.record import (
    STUDY_FILE,
    Example,
    Pair,
    Study,
    Task,
    TaskName,
    picture_path,
    write_study,
)

SHARED_CLIP, OWN_CLIP = 0.995, 0.99


@dataclass(frozen=True)
class StudyPlan:
    """What a study is made from; at least one of the three sources.

    Args:
        parts: arrays of task 1 (see `read_source`): `tangent` and `orthogonal`, or `map` and `basis`.
        fractions: arrays of task 2: two or more maps, and `basis` or their fractions.
        object: arrays of task 3: `images` and the two maps of `compare`.
        compare: the names of the maps A and B of task 3.
        images: at most this many images a task.
        questions: at most this many pairs of each task for one participant.
        seed: of the choice of images, and of the order and side of every question.
    """

    parts: Path | None = None
    fractions: Path | None = None
    object: Path | None = None
    compare: tuple[str, str] = ("gradient", "gradient-x-input")
    images: int = 100
    questions: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: if there is no source, or a number is outside its range.
        """
        if self.parts is None and self.fractions is None and self.object is None:
            raise ValueError("expected material for a task, got none; give parts, fractions or object")
        for name in ("images", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of 1 or more, got {getattr(self, name)}; 30 is usual")
        if self.seed < 0:
            raise ValueError(f"expected a seed of 0 or more, got {self.seed}; any such integer will do")
        if len(self.compare) != 2 or self.compare[0] == self.compare[1]:
            raise ValueError(f"expected the names of two maps, got {self.compare}; as gradient,smoothgrad")


def prepare(folder: str | Path, plan: StudyPlan) -> Study:
    """Write a study folder that `StudyServer` can serve.

    Pictures as in the code of Bordt et al. 2023: maps divided by their l2 norm, from blue through white to
    red. In task 1 the parts of a map share one color range, the 99.5 % quantile of the absolute values of the
    map and both parts; in tasks 2 and 3 every map has its own, its 99 % quantile. Maps with several channels
    are summed over them.

    Args:
        folder: to be made; it must not hold a study.
        plan: what from.

    Raises:
        ValueError: the folder holds a study, or the material cannot be used.
        OSError: a file cannot be written.
    """
    place = Path(folder)
    if (place / STUDY_FILE).exists():
        raise ValueError(
            f"expected a folder without a study, got {place}; its answers would lose their pairs"
        )
    pairs: dict[TaskName, list[MapPair]] = {}
    if plan.parts is not None:
        pairs["parts"] = parts_pairs(read_source(plan.parts), plan.images, plan.seed)
    if plan.fractions is not None:
        pairs["fractions"] = fractions_pairs(read_source(plan.fractions), plan.images)
    if plan.object is not None:
        pairs["object"] = object_pairs(read_source(plan.object), plan.images, plan.compare)
    tasks = [_task(place, name, found, plan) for name, found in pairs.items()]
    study = Study(title=words.TITLE, consent=list(words.CONSENT), seed=plan.seed, tasks=tasks)
    write_study(place, study)
    return study


def _task(place: Path, name: TaskName, pairs: Sequence[MapPair], plan: StudyPlan) -> Task:
    said = words.TASKS[name]
    return Task(
        name=name,
        title=said.title,
        instructions=list(said.instructions),
        question=said.question,
        examples=[] if name == "object" else _examples(place),
        rendering=words.SHARED_RANGE if name == "parts" else words.OWN_RANGE,
        questions=min(plan.questions, len(pairs)),
        pairs=[_pair(place, f"{plan.seed}/{name}/{at}", pair) for at, pair in enumerate(pairs)],
    )


def _pair(place: Path, key: str, pair: MapPair) -> Pair:
    try:
        a, b = (pictures.unit(one) for one in pair.maps)
        if pair.whole is None:
            limits = tuple(pictures.limit([one], OWN_CLIP) for one in (a, b))
        else:
            limits = (pictures.limit([a, b, pictures.unit(pair.whole)], SHARED_CLIP),) * 2
    except ValueError as error:
        raise ValueError(f"image {pair.image}, {' and '.join(pair.names)}: {error}") from error
    shown = None if pair.shown is None else _save(place, f"{key}/image", pictures.image_png(pair.shown))
    fractions = (None if math.isnan(value) else value for value in pair.fractions)
    return Pair(
        image=pair.image,
        a=_save(place, f"{key}/A", pictures.map_png(a, limits[0])),
        b=_save(place, f"{key}/B", pictures.map_png(b, limits[1])),
        shown=shown,
        a_map=pair.names[0],
        b_map=pair.names[1],
        **dict(zip(("a_fraction", "b_fraction"), fractions, strict=True)),
    )


def _examples(place: Path) -> list[Example]:
    found = []
    for text, values in zip(words.EXAMPLES, (pictures.noise_map(), pictures.letter_map()), strict=True):
        content = pictures.map_png(values, pictures.limit([values], OWN_CLIP))
        found.append(Example(picture=_save(place, f"example/{text}", content), text=text))
    return found


def _save(place: Path, key: str, content: bytes) -> str:
    """Write a picture under a name that does not tell its group."""
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    write_bytes(picture_path(place, name), content)
    return name
