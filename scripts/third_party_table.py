"""Check and audit networks of others by their specifications alone, and write docs/third-party.md.

    python scripts/third_party_table.py --cells FOLDER

runs `veridical models --check` and `veridical audit` for each row. Finished rows are kept in the folder, so
that the command can be interrupted and given again. Networks without published weights here get random ones,
which a user's file would replace: they are written once to the folder, as state dicts, directories of
transformers or exported programs. Rows of the optional data folder are left out where it is absent.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from tests import conftest  # noqa: E402, F401  (makes torchvision importable beside a CPU build of torch)
from torch import nn  # noqa: E402

from veridical.records import write_bytes  # noqa: E402

PAGE = ROOT / "docs" / "third-party.md"
DATA = Path(os.environ.get("VERIDICAL_DATA", ROOT.parent / "shared" / "data"))
METHODS = ("gradient", "guided-backprop", "lrp-zplus", "grad-cam")
TESTS = ("random-logit", "cascading-randomization", "cosine-convergence")
SIDE, IMAGES = 64, 5
RUNNER = "import tests.conftest; from veridical.cli.main import main; main()"
"""The command `veridical`, with torchvision made importable where its compiled part does not fit."""

INTRODUCTION = """\
# Networks of others

{count} networks of others, each checked and audited by its specification, without a line of code for it.
`python scripts/third_party_table.py --cells FOLDER` writes this page. Networks marked "random" have random
weights from a file: they show that a network is taken as it is, not which of its explanations to believe.
Audit: preset quick, {images} images, methods {methods},
tests {tests}; convolutional networks at {side} x {side} pixels.
Verdicts are those of the default policy, which requires these tests; grad-cam has no layer-by-layer rules, so
that the first two decide. Seconds are those of the audit's command on one thread of a shared machine, start
included.

"""


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: in the table, and of its folder.
        origin: who made it.
        spec: after `--model`; {folder} stands for the folder of its material.
        options: of the command line, in the same way.
        prepare: writes the material, such as random weights.
        trained: whether the weights are.
        needs: what must exist.
    """

    name: str
    origin: str
    spec: str
    options: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None
    trained: bool = False
    needs: Path | None = None

    def arguments(self, folder: Path) -> list[str]:
        """The specification and its options."""
        return [one.replace("{folder}", str(folder)) for one in (self.spec, *self.options)]


def calibrated(model: nn.Module, side: int) -> Any:
    """A network of random weights whose batch normalization knows what comes, so that signals survive.

    Args:
        model: changed in place.
        side: of the images.

    Returns:
        The model, in evaluation mode.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    model.train()
    with torch.no_grad():
        model(torch.rand(8, 3, side, side))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def small(folder: Path) -> None:
    """Write a preprocessing for small images."""
    values = {"resize": SIDE, "crop": SIDE, "source": f"ImageNet at {SIDE} pixels"}
    write_bytes(folder / "small.json", json.dumps(values).encode())


def torchvision_row(name: str) -> Row:
    """A network of torchvision with random weights."""

    def prepare(folder: Path) -> None:
        from torchvision.models import get_model

        small(folder)
        torch.save(calibrated(get_model(name, weights=None), SIDE).state_dict(), folder / "random.pt")

    options = ("--weights", "{folder}/random.pt", "--preprocessing", "{folder}/small.json")
    return Row(name, "torchvision", f"torchvision:{name}", options, prepare)


def timm_row(name: str, side: int | None = SIDE) -> Row:
    """A network of timm with random weights; `side` None: at its own size."""

    def prepare(folder: Path) -> None:
        import timm

        small(folder)
        model: Any = timm.create_model(name)
        torch.save(
            calibrated(model, side or model.pretrained_cfg["input_size"][1]).state_dict(),
            folder / "random.pt",
        )

    options: tuple[str, ...] = ("--weights", "{folder}/random.pt")
    options += () if side is None else ("--preprocessing", "{folder}/small.json")
    return Row(name, "timm", f"timm:{name}", options, prepare)


def hugging_face_row(name: str, processor: str, size: dict[str, int], **config: Any) -> Row:
    """An architecture of transformers with random weights, as `save_pretrained` writes it."""

    def prepare(folder: Path) -> None:
        import transformers

        settings = getattr(transformers, f"{name}Config")(num_labels=10, **config)
        model = getattr(transformers, f"{name}ForImageClassification")(settings)
        calibrated(model, min(size.values())).save_pretrained(folder / "model")
        getattr(transformers, f"{processor}ImageProcessorPil")(size=size).save_pretrained(folder / "model")

    return Row(f"{name}ForImageClassification", "transformers", "hf:{folder}/model", prepare=prepare)


def exported_row(name: str) -> Row:
    """A network of torchvision as an exported program that carries its preprocessing."""

    def prepare(folder: Path) -> None:
        from torchvision.models import get_model

        model = calibrated(get_model(name, weights=None), SIDE)
        program = torch.export.export(
            model, (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
        )
        notes = json.dumps({"preprocessing": {"resize": SIDE, "crop": SIDE}})
        torch.export.save(program, folder / f"{name}.pt2", extra_files={"veridical.json": notes})

    return Row(f"{name}.pt2", "torch.export", f"{{folder}}/{name}.pt2", prepare=prepare)


def data_row(name: str, spec: str, weights: str, images: str, preprocessing: dict[str, Any]) -> Row:
    """A trained network of the data folder."""

    def prepare(folder: Path) -> None:
        write_bytes(folder / "small.json", json.dumps(preprocessing).encode())

    file = DATA / "models" / weights
    options = (
        "--weights",
        str(file),
        "--preprocessing",
        "{folder}/small.json",
        "--images",
        str(DATA / images),
    )
    return Row(name, "checkpoint", spec, options, prepare, trained=True, needs=file)


GRAY = {"resize": 28, "crop": 28, "mean": [0.0], "std": [1.0], "channels": 1, "source": "values in [0, 1]"}
COLOR = {"resize": 32, "crop": 32, "source": "ImageNet's mean and std at 32 pixels"}
ROWS = (
    Row("demo", "efficientnet-lite-pytorch", "demo", trained=True),
    torchvision_row("resnet18"),
    torchvision_row("vgg11_bn"),
    torchvision_row("densenet121"),
    torchvision_row("mobilenet_v3_small"),
    torchvision_row("squeezenet1_1"),
    timm_row("regnety_002"),
    timm_row("convnext_atto"),
    timm_row("mobilenetv3_small_050"),
    timm_row("test_vit", None),
    hugging_face_row(
        "ViT", "ViT", {"height": 32, "width": 32}, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=48, image_size=32, patch_size=8,
    ),
    hugging_face_row(
        "ResNet", "ViT", {"height": SIDE, "width": SIDE}, embedding_size=16, hidden_sizes=[16, 32],
        depths=[2, 2], layer_type="bottleneck",
    ),
    hugging_face_row(
        "ConvNext", "ConvNext", {"shortest_edge": SIDE}, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1]
    ),
    data_row(
        "CIFAR ResNet-20", "networks_real:CifarResNet", "resnet20_cifar10.pt", "cifar10/test.zip", COLOR
    ),
    data_row("LeNet", "networks_real:LeNet", "mnist_lenet5_clean.pt", "MNIST/raw", GRAY),
    data_row("LeNet, adversarial", "networks_real:LeNet", "mnist_lenet5_linf_adv.pt", "MNIST/raw", GRAY),
    exported_row("resnet18"),
)  # fmt: skip


def measure(row: Row, folder: Path) -> dict[str, Any]:
    """Check and audit one network, or read what was found before.

    Args:
        row: of the table.
        folder: its own.

    Returns:
        What the check said, the verdicts, the seconds; or the error.
    """
    stored = folder / "row.json"
    if stored.is_file():
        found: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready"
    if row.prepare is not None and not ready.exists():
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            row.prepare(folder)
        ready.touch()
    spec, *options = row.arguments(folder.resolve())
    check = json.loads(command(["models", "--check", spec, *options, "--json"]))
    started = time.monotonic()
    audit = ["audit", "--model", spec, *options, "--preset", "quick", "--limit", str(IMAGES)]
    audit += ["--methods", ",".join(METHODS), "--tests", ",".join(TESTS), "--out", str(folder / "run")]
    command(audit)
    run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    verdicts = {name: one["verdict"] for name, one in run["verdicts"].items()}
    found = {"check": check, "verdicts": verdicts, "seconds": time.monotonic() - started}
    write_bytes(stored, json.dumps(found, indent=1).encode())
    return found


def command(arguments: Sequence[str]) -> str:
    """What `veridical` with these arguments writes to stdout.

    Raises:
        RuntimeError: it ends with an error; the message is its last line.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *arguments], cwd=ROOT / "tests", env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


def line(row: Row, found: dict[str, Any]) -> str:
    """One row of the table in Markdown.

    Args:
        row: the network.
        found: by `measure`.

    Returns:
        The row.
    """
    check = found["check"]
    runs = sum(one["state"] == "runs" for one in check["methods"])
    size = " x ".join(map(str, check["input"]))
    name = row.name if row.trained else f"{row.name} (random)"
    cells = [
        name, row.origin, f"{check['parameters'] / 1e6:.2f}", size, str(check["classes"]),
        f"{runs} of {len(check['methods'])}", *(found["verdicts"].get(method, "-") for method in METHODS),
        f"{found['seconds']:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def page(results: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """The whole page.

    Args:
        results: rows and what was found.

    Returns:
        Markdown.
    """
    head = [
        "network",
        "from",
        "million weights",
        "images",
        "classes",
        "methods that run",
        *METHODS,
        "seconds",
    ]
    text = INTRODUCTION.format(
        count=len(results), images=IMAGES, methods=", ".join(METHODS), tests=", ".join(TESTS), side=SIDE
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(line(*one) for one in results)]
    return text + "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the page.

    Returns:
        1 if a network could not be checked or audited, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", type=Path, required=True, help="folder that keeps finished rows")
    parser.add_argument("--only", help="names of rows, separated by commas; the page is then not written")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else None
    results, failed = [], 0
    for row in ROWS:
        if (wanted is not None and row.name not in wanted) or (
            row.needs is not None and not row.needs.exists()
        ):
            continue
        try:
            found = measure(row, options.cells / row.name.replace(" ", "-").replace(",", ""))
        except RuntimeError as error:
            failed = 1
            print(f"{row.name}: {error}", file=sys.stderr)
            continue
        results.append((row, found))
        print(line(row, found), flush=True)
    if wanted is None and results:
        write_bytes(PAGE, page(results).encode())
    return failed


if __name__ == "__main__":
    sys.exit(main())
