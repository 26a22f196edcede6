"""Every figure and table that can be computed again: one line each. Without torch until one is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from veridical.names import nearest_names

if TYPE_CHECKING:
    from veridical.reproduce.given import Reproduction

Needs = Literal["nothing", "network", "manifold"]

DOMBROWSKI, SIXT, BORDT = "Dombrowski et al. 2019", "Sixt et al. 2020", "Bordt et al. 2023"
NEEDS = {
    "nothing": "nothing",
    "network": "a network and images (default: the demo network and its photographs)",
    "manifold": "a network, images and their manifold (--manifold, or --decoder with --latents)",
}


@dataclass(frozen=True)
class Entry:
    """One figure or table of a paper.

    Args:
        name: by paper and part, as users write it.
        paper: authors and year.
        part: "figure 4", with the section or supplement.
        title: what it shows.
        needs: what has to be given.
        minutes: about how long, "quick" and "full", on one free core with the demo network and photographs.
        home: module in `veridical.reproduce` and what of it is the `Reproduction`.
    """

    name: str
    paper: str
    part: str
    title: str
    needs: Needs
    minutes: tuple[float, float]
    home: str

    @property
    def needs_network(self) -> bool:
        """Whether a network and images are needed."""
        return self.needs != "nothing"

    @property
    def needs_manifold(self) -> bool:
        """Whether a manifold is needed too."""
        return self.needs == "manifold"

    @property
    def description(self) -> str:
        """One line for a list."""
        quick, full = (f"{one:g} min" if one >= 1 else "seconds" for one in self.minutes)
        return (
            f"{self.paper}, {self.part}: {self.title}; needs {NEEDS[self.needs]}; quick {quick}, full {full}"
        )

    def record(self) -> dict[str, Any]:
        """One row for programs."""
        return {
            "name": self.name, "paper": self.paper, "part": self.part, "title": self.title,
            "needs": self.needs, "minutes": {"quick": self.minutes[0], "full": self.minutes[1]},
        }  # fmt: skip

    def check(self, *, network: bool, manifold: bool) -> None:
        """Check that what it needs is there, before any work.

        Raises:
            ValueError: if something is missing.
        """
        if self.needs_network and not network:
            raise ValueError(f"expected a network and images for {self.name}, got none; give --model")
        if self.needs_manifold and not manifold:
            raise ValueError(
                f"expected the manifold of the images for {self.name}, got none; give --manifold (a "
                "directory of `veridical manifold fit`, a file of beta-TCVAE weights, or published), or "
                "--decoder with --latents, and --model and --images that belong to it"
            )

    def load(self) -> "Reproduction[Any]":
        """The functions that compute it."""
        module, attribute = self.home.split(":")
        found: Reproduction[Any] = getattr(import_module(f"veridical.reproduce.{module}"), attribute)
        return found


def _d(number: str, part: str, title: str, needs: Needs, minutes: tuple[float, float], home: str) -> Entry:
    return Entry(f"dombrowski2019-{number}", DOMBROWSKI, part, title, needs, minutes, home)


def _s(number: str, part: str, title: str, needs: Needs, minutes: tuple[float, float], home: str) -> Entry:
    return Entry(f"sixt2020-{number}", SIXT, part, title, needs, minutes, home)


def _b(number: str, part: str, title: str, needs: Needs, minutes: tuple[float, float], home: str) -> Entry:
    return Entry(f"bordt2023-{number}", BORDT, part, title, needs, minutes, home)


_ENTRIES = (
    _d(
        "figure-3", "figure 3", "attacked maps and images, how alike", "network", (4, 60), "attacked:FIGURE_3"
    ),
    _d("figure-4", "figure 4", "undoing an attack by smoothing", "network", (5, 60), "undoing:FIGURE_4"),
    _d("figure-5", "figure 5", "robustness and cost of smoothing", "network", (8, 120), "robust:FIGURE_5"),
    _d("figure-6", "figure 6", "gradient maps as beta falls", "network", (0.3, 1), "softer:FIGURE_6"),
    _d("figure-7", "figure 7", "pixel flipping", "network", (0.5, 3), "flipping:FIGURE_7"),
    _d("figure-20", "supplement figure 20", "level sets", "nothing", (0.2, 1), "level_sets:FIGURE_20"),
    _d("theorem-1", "theorem 1", "the bound by curvature", "nothing", (0.2, 5), "theorem_1:THEOREM_1"),
    _d("theorem-2", "theorem 2", "SmoothGrad and softplus", "nothing", (0.2, 1), "theorem_2:THEOREM_2"),
    _s("figure-1", "figure 1", "maps of two classes", "network", (0.2, 0.2), "two_classes:FIGURE_1"),
    _s("figure-3", "figure 3", "singular values of layers", "network", (3, 10), "layer_ranks:FIGURE_3"),
    _s("figure-4", "figure 4", "random logit and layers", "network", (1, 5), "sanity:FIGURE_4"),
    _s("figure-5", "figure 5", "cosine convergence", "network", (1.5, 3), "cosines:FIGURE_5"),
    _s("figure-6", "figure 6", "LRP-CMP", "network", (1, 2), "cosines:FIGURE_6"),
    _s("figure-7", "figure 7", "chains of random matrices", "nothing", (0.3, 1), "chains:FIGURE_7"),
    _s("theorem-1", "theorem 1", "products of matrices", "nothing", (0.2, 1), "chains:THEOREM_1"),
    _b("baseline", "section 3.3", "random directions", "nothing", (0.2, 1), "tangent:BASELINE"),
    _b("figure-3", "figure 3", "maps in the tangent space", "manifold", (1, 5), "tangent:FIGURE_3"),
    _b("user-study", "section 4.4", "the counts tested again", "nothing", (0.2, 0.2), "tangent:STUDY"),
)

CATALOG: Mapping[str, Entry] = {one.name: one for one in _ENTRIES}
"""All of them by name."""


def find_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: if there is none; the message names the nearest.
    """
    if name not in CATALOG:
        raise ValueError(f"expected a figure or table, got {name!r}; {nearest_names(name, CATALOG)}")
    return CATALOG[name]
