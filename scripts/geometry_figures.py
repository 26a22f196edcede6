"""Draw the pictures of docs/geometry.md and print its tables.

    python scripts/geometry_figures.py levels                                # seconds, needs no data
    python scripts/geometry_figures.py chain                                 # a minute, needs no data
    python scripts/geometry_figures.py beta DATA --out FOLDER [--images 10]  # curvature against beta
    python scripts/geometry_figures.py movement DATA --out FOLDER [--images 50] [--steps 100]
    python scripts/geometry_figures.py twins DATA --out FOLDER [--images 10] [--steps 100]

DATA is the optional data folder; its trained CIFAR ResNet-20 and test images are used, or with --network its
ResNet-56, or EfficientNet-Lite0 and photographs at 224 pixels (fewer with --size), in float32. Every finished
cell (a beta; ten images of `movement`) is kept in FOLDER, so that the same command goes on after an
interruption. `movement` compares what curvature predicts with what an attack does, as a rank correlation over
images: one with the whole change, one with that at the distance `NEAR` in the direction that the attack took.
`twins` measures the way on the level set from an image to its manipulated twin.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from scripts.pages import Cell, cifar_images, kept, picture, table  # noqa: E402

from networks_real import trained  # type: ignore[import-not-found]  # noqa: E402
from veridical.attacks import ManipulationSettings, manipulate  # noqa: E402
from veridical.attributions import method, saliency  # noqa: E402
from veridical.data import load_folder  # noqa: E402
from veridical.geometry import curvature, geodesic, predict_movement, theorem1, walk  # noqa: E402
from veridical.metrics import pearson, spearman  # noqa: E402
from veridical.models import load_model  # noqa: E402
from veridical.reproduce.level_sets import contours, two_layers  # noqa: E402
from veridical.smoothing import SmoothedModel, predicted_target  # noqa: E402
from veridical.tensors import per_sample  # noqa: E402

FOLDER = ROOT / "docs"
BETAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
ATTACK_BETA = 10.0
RADIUS = 0.01
"""So small that no prediction reaches the largest value that it can have: only ranks are compared."""
NEAR = 0.1
"""The same Euclidean distance for every image, in units of the input."""
NETWORKS = ("resnet20", "resnet56", "efficientnet-lite0")
FULL = 224
SWEEPS = 10
PART = 10
RESAMPLES = 2000


def levels() -> str:
    """Supplement figure 20: contours of the two-layer network, ReLU beside beta = 5 and 1."""
    model = two_layers()
    figure, panels = pyplot.subplots(1, 3, figsize=(9, 3.2))
    for axes, beta in zip(panels, (None, 5.0, 1.0), strict=True):
        contours(model, beta, axes)
    figure.tight_layout()
    picture(figure, FOLDER / "geometry-levels.png")
    return "drew geometry-levels.png"


def chain(betas: tuple[float, ...] = BETAS, steps: int = 20) -> str:
    """Bound against measurement: theorem 1 on a small network."""
    model, x = (
        two_layers(12, 30),
        torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double(),
    )
    medians = []
    for beta in betas:
        path = walk(model, x, 0, beta=beta, steps=steps, length=1.0)
        found = theorem1(model, path, every=2, factor="tight")
        values = (found.change, found.turning, found.curvature_bound, found.weight_bound)
        medians.append([float(value.nanmedian()) for value in values])
    names = ["change of n", "sum of changes", "curvature x length", "beta C x length"]
    figure, axes = pyplot.subplots(figsize=(6.5, 3.4))
    for name, values, style in zip(names, zip(*medians, strict=True), ("-", ":", "--", "-."), strict=True):
        axes.plot(betas, values, style, marker=".", label=name)
    axes.set(xscale="log", yscale="log", xlabel="beta", ylabel="change of the normal, and its bounds")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    picture(figure, FOLDER / "geometry-chain.png")
    rows = [
        [f"{beta:g}", *(f"{value:.3g}" for value in row)] for beta, row in zip(betas, medians, strict=True)
    ]
    return table(["beta", *names], rows)


def subject(data: Path, network: str, images: int, size: int = FULL) -> tuple[nn.Module, Tensor]:
    """A trained network and so many of its images (N, 3, H, W); the size is that of photographs."""
    if network != "efficientnet-lite0":
        return trained(data, f"{network}_cifar10"), cifar_images(data, "test.zip", images)
    loaded = load_model("demo")
    photographs = load_folder(data / "imagenet-sample").images
    chosen = photographs[:: len(photographs) // images][:images]
    x = torch.stack([loaded.preprocessing.apply(one) for one in chosen])
    if size != x.shape[2]:
        x = nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return loaded.module, x


def against_beta(data: Path, out: Path, images: int, network: str = "resnet20") -> str:
    """Largest |curvature| of a network at its images, for every beta, and what it costs."""
    model, x = subject(data, network, images)
    classes = predicted_target(model, x)
    rows, lines = [], []
    for beta in BETAS:

        def measure(beta: float = beta) -> Cell:
            found = curvature(model, x, classes, beta=beta, top=1, tolerance=1e-3, batch=1)
            return {
                "largest": found.largest,
                "residuals": found.residuals,
                "steps": found.steps,
                "gradient": found.gradient_norm,
            }

        cell = kept(out / f"beta-{network}-{beta:g}-{images}.safetensors", measure)
        largest = cell["largest"].abs()
        lines.append(largest)
        low, middle, high = largest.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
        worst = float((cell["residuals"][:, 0] / largest).max())
        rows.append([f"{beta:g}", f"{middle:.3g}", f"{low:.3g} to {high:.3g}", f"{worst:.1e}",
                     str(int(cell["steps"].max()))])  # fmt: skip
    figure, axes = pyplot.subplots(figsize=(5, 3.4))
    axes.plot(BETAS, torch.stack(lines), color="tab:blue", alpha=0.35, linewidth=0.8)
    axes.plot(BETAS, torch.stack(lines).median(dim=1).values, color="black", label="median")
    axes.set(xscale="log", yscale="log", xlabel="beta", ylabel="largest |curvature|")
    axes.legend()
    figure.tight_layout()
    picture(figure, FOLDER / f"geometry-beta-{network}.png")
    return table(["beta", "median", "10 to 90 %", "largest relative residual", "most steps"], rows)


def attacked(model: nn.Module, x: Tensor, others: Tensor, steps: int) -> Tensor:
    """The images whose gradient maps an attack has moved toward those of the others."""
    classes, explain = predicted_target(model, x), method("gradient")
    settings = ManipulationSettings(steps=steps, factors=(1e7, 1e2), keep="last")
    aim = saliency(explain(model, others))
    images: Tensor = manipulate(model, x, aim, explainer=explain, target=classes, settings=settings).inputs
    return images


def measured_movement(model: nn.Module, x: Tensor, others: Tensor, steps: int) -> Cell:
    """Prediction for images, and what an attack on their gradient maps does to them."""
    classes, explain = predicted_target(model, x), method("gradient")
    predicted = predict_movement(model, x, classes, beta=ATTACK_BETA, radius=RADIUS, tolerance=1e-3)
    clean, twins = saliency(explain(model, x, classes)), attacked(model, x, others, steps)
    distance = (twins - x).double().flatten(1).norm(dim=1)
    share = NEAR / distance.clamp(min=torch.finfo(torch.float32).tiny)
    near = x + per_sample(share.float(), x) * (twins - x)
    smooth = SmoothedModel(model, ATTACK_BETA)
    found = {"largest": predicted.largest, "expected": predicted.expected, "distance": distance}
    normal = _unit(explain(smooth, x, classes))
    for name, images in (("", twins), ("near ", near)):
        found[f"{name}map"] = 1 - pearson(clean, saliency(explain(model, images, classes)))
        found[f"{name}normal"] = (_unit(explain(smooth, images, classes)) - normal).norm(dim=1)
    return found


def _unit(relevance: Tensor) -> Tensor:
    flat = relevance.flatten(1).double()
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True)
    return unit


def rank_correlation(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Spearman's correlation over images with its 95 % percentile bootstrap interval."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(first), (RESAMPLES, len(first)), generator=generator)
    many = spearman(first[drawn], second[drawn])
    low, high = many[~many.isnan()].quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return float(spearman(first[None], second[None])), low, high


def movement(data: Path, out: Path, images: int, steps: int, network: str, size: int) -> str:
    """Rank correlation of predicted and attacked movement over images."""
    model, x = subject(data, network, images, size)
    others = x.roll(len(x) // 2, dims=0)
    cells = [
        kept(
            out / f"movement-{network}-{x.shape[2]}-{images}-{steps}-{index * PART}.safetensors",
            partial(measured_movement, model, *pair, steps),
        )
        for index, pair in enumerate(zip(x.split(PART), others.split(PART), strict=True))
    ]
    joined = {name: torch.cat([cell[name] for cell in cells]) for name in cells[0]}
    return correlations(joined)


def correlations(joined: Cell) -> str:
    """The table of `movement`, and between which distances the attack went."""
    # An attack does not go the same way with each image: what would knowing it add, what does it say alone?
    predictions = {
        "largest": joined["largest"],
        "expected": joined["expected"],
        "distance of the attack": joined["distance"],
        "expected x distance of the attack": joined["expected"] * joined["distance"],
    }
    rows = []
    for attacked in ("near normal", "near map", "normal", "map"):
        for name, predicted in predictions.items():
            if attacked.startswith("near") and "distance" in name:
                continue  # it is the same for all there
            value, low, high = rank_correlation(predicted, joined[attacked])
            rows.append([name, attacked, f"{value:.2f}", f"{low:.2f} to {high:.2f}", str(len(predicted))])
    low, middle, high = joined["distance"].quantile(torch.tensor([0.0, 0.5, 1.0]).double()).tolist()
    head = ["predicted", "change under attack", "Spearman", "95 %", "images"]
    return f"{table(head, rows)}\n\ndistance {low:.3g} to {high:.3g}, median {middle:.3g}"


def twins(data: Path, out: Path, images: int, steps: int) -> str:
    """The way on the level set from an image of the ResNet-20 to its manipulated twin, with its bounds."""
    model, x = subject(data, "resnet20", images)

    def measure() -> Cell:
        others = attacked(model, x, x.roll(len(x) // 2, dims=0), steps)
        found = geodesic(model.double(), x.double(), others.double(), beta=ATTACK_BETA, sweeps=SWEEPS)
        return {
            "lower": found.lower,
            "upper": found.upper,
            "moved": found.moved,
            "turning": found.path.turning,
            "change": found.path.change,
        }

    cell = kept(out / f"twins-{images}-{steps}.safetensors", measure)
    cell["upper / lower"] = cell["upper"] / cell["lower"]
    measured = int((~cell["upper"].isnan()).sum())
    rows = []
    for name, values in cell.items():
        shown = values[~values.isnan()].quantile(torch.tensor([0.0, 0.5, 1.0]).double()).tolist()
        rows.append([name, *(f"{value:.3g}" for value in shown)])
    return f"{table(['', 'smallest', 'median', 'largest'], rows)}\n\n{measured} of {images} measured"


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("levels", "chain", "beta", "movement", "twins"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--size", type=int, default=FULL, help="of photographs in `movement`, in pixels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part in ("levels", "chain"):
        print({"levels": levels, "chain": chain}[given.part]())
        return
    if given.data is None or given.out is None:
        parser.error(f"{given.part} needs DATA and --out FOLDER")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part == "beta":
        print(against_beta(given.data, given.out, given.images, given.network))
    elif given.part == "twins":
        print(twins(given.data, given.out, given.images, given.steps))
    else:
        print(movement(given.data, given.out, given.images, given.steps, given.network, given.size))


if __name__ == "__main__":
    main()
