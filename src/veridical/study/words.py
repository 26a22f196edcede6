"""What participants read, and what Bordt et al. counted. The wording of their study was not published."""

from typing import NamedTuple

from veridical.study.record import TaskName


class Wording(NamedTuple):
    """The words of a task."""

    title: str
    instructions: tuple[str, ...]
    question: str


TITLE = "Which picture shows more?"
CONSENT = (
    "You will see pairs of pictures that a computer made to explain what it saw in an image. For each pair "
    "you choose one picture. There are no right or wrong answers.",
    "Your choices are stored with a random number, nothing else: no name, no address, no time, nothing about "
    "your device. They are used for research on such pictures. Since nobody knows which answers are yours, "
    "they cannot be taken out later.",
    "Taking part is voluntary. You can stop at any time by closing the page, and go on later with the same "
    "link. Answers that you have given by then are kept.",
)
_STRUCTURE = (
    "The pictures show red, white and blue dots. In some of them the dots form lines or shapes; in others "
    "they look like noise.",
    "Choose the picture in which you see more structure. Where you are not sure, choose the one that comes "
    "nearer.",
)
TASKS: dict[TaskName, Wording] = {
    "parts": Wording("Structure or noise", _STRUCTURE, "Which picture has more visible structure?"),
    "fractions": Wording("More or less structure", _STRUCTURE, "Which picture has more visible structure?"),
    "object": Wording(
        "Finding the object",
        (
            "Above you see an image, below it two pictures that mark places in it in red and blue.",
            "Choose the picture that marks the object in the image better.",
        ),
        "Which picture highlights the object better?",
    ),
}
EXAMPLES = ("An example of noise without structure.", "An example of structure: a large letter A in noise.")
SHARED_RANGE = (
    "l2-normalized, one color range from -v to v for a map and its parts, v their pooled 99.5 % quantile of "
    "absolute values; blue, white, red"
)
OWN_RANGE = (
    "l2-normalized, a color range from -v to v for each map, v its 99 % quantile of absolute values; blue, "
    "white, red"
)
# Bordt et al. 2023, section 4.4: how often A and B were chosen.
PUBLISHED: dict[TaskName, tuple[int, int]] = {"parts": (0, 580), "fractions": (143, 315), "object": (36, 217)}
