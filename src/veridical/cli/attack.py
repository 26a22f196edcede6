"""`veridical attack`: change an image invisibly so that its explanation shows something else."""

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from torch import Tensor

from veridical.auditing import Forgery, Moment, attack_settings, defended, forge, published
from veridical.cli.attack_files import check_place, write_attack
from veridical.cli.attack_method import find_method
from veridical.cli.attack_target import find_target
from veridical.cli.errors import INTERRUPTED, one_line_errors
from veridical.cli.options import Device, Model, Network, Normalization, Weights, bounds_of, find_device
from veridical.data import sample_photographs
from veridical.data.images import Images, decode, digest, read_file
from veridical.models import LoadedModel
from veridical.report import AttackPictures
from veridical.values import FixedTensor

DEFAULT_PHOTOGRAPH = "chelsea.png"

ImageFile = Annotated[Path | None, typer.Option("--image", help="The photograph; default: a bundled cat.")]
TargetImage = Annotated[Path | None, typer.Option("--target-image", help="Aim at this photograph's map.")]
TargetMap = Annotated[
    Path | None, typer.Option("--target-map", help="Aim at this map: a picture, .npy or .safetensors.")
]
TargetText = Annotated[str | None, typer.Option("--target-text", help="Aim at this text.")]
TargetRegion = Annotated[
    str | None,
    typer.Option(
        "--target-region", help="Aim at a box LEFT,TOP,RIGHT,BOTTOM: 20,20,80,80 or 0.1,0.1,0.4,0.4."
    ),
]
TargetUniform = Annotated[bool, typer.Option("--target-uniform", help="Aim at a map with one value.")]
Method = Annotated[
    str | None,
    typer.Option("--method", help="A name or package.module:callable; default: the preset's, else gradient."),
]
PatternsFile = Annotated[
    Path | None, typer.Option("--patterns", help="Patterns of patternnet or pattern-attribution: a file.")
]
FitPatterns = Annotated[
    str | None,
    typer.Option("--fit-patterns", help="Fit them on these images instead: any form of --images of audit."),
]
Gradient = Annotated[
    str,
    typer.Option(
        "--gradient", help="exact; or estimated from calls, weak, for a method without a derivative."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The directory to write to; an earlier attack is replaced.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Steps of the optimization; default: the preset's.")
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate as a fraction of black to white; default: the preset's."),
]
MaxLinf = Annotated[
    float | None,
    typer.Option("--max-linf", help="The most that a value may change, a fraction of black to white."),
]
MaxL2 = Annotated[
    float | None, typer.Option("--max-l2", help="The most that the image may change, Euclidean norm of that.")
]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset", help="Settings: default, or a published attack, as table1-gradient, with its method."
    ),
]
SmoothBeta = Annotated[
    float | None,
    typer.Option(
        "--smooth-beta",
        help="Attack the method on softplus activations of this beta; instead of the preset's smoothing.",
    ),
]
SmoothGrad = Annotated[
    int | None,
    typer.Option(
        "--smoothgrad",
        help="Attack the method averaged over this many noisy copies; instead of the preset's smoothing.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]


@dataclass(frozen=True)
class Subject:
    """The network and the image under attack."""

    loaded: LoadedModel
    photograph: Images
    inputs: Tensor


def command(  # noqa: PLR0913 - the options of a command line are its parameters
    model: Model = "demo",
    weights: Weights = None,
    preprocessing: Normalization = None,
    image: ImageFile = None,
    target_image: TargetImage = None,
    target_map: TargetMap = None,
    target_text: TargetText = None,
    target_region: TargetRegion = None,
    target_uniform: TargetUniform = False,
    method: Method = None,
    patterns: PatternsFile = None,
    fit_patterns: FitPatterns = None,
    gradient: Gradient = "exact",
    out: Out = Path("veridical-attack"),
    steps: Steps = None,
    lr: Rate = None,
    max_linf: MaxLinf = None,
    max_l2: MaxL2 = None,
    preset: PresetName = "default",
    smooth_beta: SmoothBeta = None,
    smoothgrad: SmoothGrad = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Change an image so that its explanation shows something else, and measure the change.

    Ctrl-C ends the optimization; what was reached is measured and written, and the exit code is 130.
    """
    with one_line_errors("interrupted; nothing was written"):
        aim = find_target(
            image=target_image, map=target_map, text=target_text, region=target_region, uniform=target_uniform
        )
        chosen: dict[str, Any] = {"steps": steps, "lr": lr, "seed": seed, "gradient": gradient}
        chosen |= {"max_linf": max_linf, "max_l2": max_l2}
        attack_settings(preset, **chosen)  # refuses what is wrong before anything is loaded
        beta, samples = _form(preset, smooth_beta, smoothgrad)
        defense = partial(defended, beta=beta, samples=samples, seed=seed, gradient=gradient)
        wanted = find_method(method, preset, patterns, fit_patterns, defense)
        check_place(out)
        subject = _load(Network(model, weights, preprocessing, device), image)
        attacked = wanted(subject.loaded)
        goal, target = aim(subject.loaded, subject.inputs, attacked.explainer)
        settings = attack_settings(preset, bounds_of(subject.loaded), **chosen)
        with _progress() as told:
            found = forge(
                subject.loaded.module, subject.inputs, goal, attacked.explainer, settings, progress=told
            )
        record = _record(subject, found, {"method": attacked.facts, "target": target, "preset": preset})
        write_attack(out, found, record, _shown(subject, found, record), attacked.fitted)
        _tell(record, out)
    if found.attack.interrupted:
        raise typer.Exit(INTERRUPTED)


def _form(preset: str, beta: float | None, samples: int | None) -> tuple[float | None, int | None]:
    """How the attacked method is smoothed: as the options say, without any as the preset's table does."""
    if beta is not None or samples is not None:
        return beta, samples
    paper = published(preset)
    return paper.beta, paper.samples


def _load(network: Network, image: Path | None) -> Subject:
    photograph = _photograph(image)
    loaded = network.load()
    inputs = loaded.preprocessing.apply(photograph.images[0])[None].to(find_device(network.device))
    return Subject(loaded, photograph, inputs)


def _photograph(image: Path | None) -> Images:
    if image is not None:
        content = read_file(image)
        return Images((image.name,), (decode(content, str(image)),), (digest(content),))
    found = sample_photographs()
    index = found.names.index(DEFAULT_PHOTOGRAPH)
    return Images((DEFAULT_PHOTOGRAPH,), (found.images[index],), (found.sha256[index],))


@contextmanager
def _progress() -> Iterator[Callable[[Moment], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("preparing", total=None)

        def told(moment: Moment) -> None:
            bars.update(bar, total=moment.steps, completed=moment.step, description=_words(moment))

        yield told


def _words(moment: Moment) -> str:
    network = ", smoothed" if moment.smoothed else ""
    kept = {True: ", class kept", False: ", class changed", None: ""}[moment.class_kept]
    return f"correlation {moment.pcc:.2f}{network}{kept}"


def _record(subject: Subject, found: Forgery, chosen: dict[str, Any]) -> dict[str, Any]:
    """The content of result.json; only `times` differs between two runs of the same attack."""
    loaded, photograph = subject.loaded, subject.photograph
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "format": 1,
        "finished": True,
        "times": {"created": created, "seconds": round(found.seconds, 3)},
        "model": {
            "name": loaded.name, "source": loaded.source, "sha256": loaded.sha256,
            "parameters": loaded.parameters, "preprocessing": loaded.preprocessing.as_dict(),
        },
        "image": {
            "name": photograph.names[0],
            "sha256": photograph.sha256[0],
            "input_sha256": FixedTensor(subject.inputs).digest,
            "width": subject.inputs.shape[3],
            "height": subject.inputs.shape[2],
        },
        **chosen,
        "settings": asdict(found.settings),
        "device": str(subject.inputs.device),
        "environment": {
            "veridical": version("veridical"), "python": sys.version.split()[0], "torch": torch.__version__,
            "pillow": version("pillow"), "numpy": version("numpy"), "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
        "conventions": found.conventions(),
        **found.figures(label=loaded.label),
    }  # fmt: skip


def _shown(subject: Subject, found: Forgery, record: dict[str, Any]) -> AttackPictures:
    """What the figure shows, in words and arrays."""
    show = subject.loaded.preprocessing.denormalize
    before, after = record["before"], record["after"]
    output, kind = after["output"], record["target"]["kind"]
    now = output["probability"] + output["probability_change"]
    # Where the class changed, the probability is still that of the class before.
    changed = "" if output["class_kept"] else f"; now {output['label_after']}"
    ending = ", gradient estimated" if record["gradient"]["kind"] == "estimated" else ""
    ending += ", interrupted" if record["interrupted"] else ""
    return AttackPictures(
        clean=_array(show(found.clean)[0]),
        manipulated=_array(show(found.attack.inputs)[0]),
        maps={name: _array(one[0]) for name, one in found.maps().items()},
        title=f"{record['method']['name']} on {subject.loaded.name}, target: {kind}, "
        f"step {record['kept_step']} of {found.settings.steps}{ending}",
        captions={
            "clean": f"{output['label_before']}, probability {output['probability']:.3f}",
            "manipulated": f"{output['label_before']}, probability {now:.3f}{changed}",
            "original map": f"correlation with the target {_round(before['to_target']['pcc'])}",
            "target map": kind,
            "manipulated map": f"correlation: target {_round(after['to_target']['pcc'])}, "
            f"first map {_round(after['to_original']['pcc'])}",
        },
    )


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().float().numpy()


def _round(value: float | None, digits: int = 2) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _tell(record: dict[str, Any], out: Path) -> None:
    """The figures that matter, and where the rest is."""
    after, output = record["after"], record["after"]["output"]
    if record["interrupted"]:
        typer.echo(f"interrupted: the best of the steps until then is kept, step {record['kept_step']}")
    if record["gradient"]["kind"] == "estimated":
        typer.echo(
            f"the gradient was estimated from {record['gradient']['calls']} maps, not derived: a weak "
            "attack, whose failure does not show that the map is robust"
        )
    typer.echo(f"the clean image: correlation with the target {_round(record['before']['to_target']['pcc'])}")
    typer.echo(f"the manipulated image: {_correlations(after)}")
    for name, one in record["stored"].items():
        control = _round(one["control"]["pcc"])
        typer.echo(f"stored as {name}: {_correlations(one)} (the clean image stored so: {control})")
    kept = "kept" if output["class_kept"] else f"changed to {output['label_after']}"
    typer.echo(
        f"class {output['label_before']} {kept}, its probability changed by "
        f"{output['probability_change']:+.2g}; largest change of a pixel "
        f"{255 * after['image']['linf']:.1f} of 255, PSNR {_round(after['image']['psnr'], 1)} dB"
    )
    typer.echo(str((out / "figure.png").resolve()))


def _correlations(found: dict[str, Any]) -> str:
    target, original = (_round(found[name]["pcc"]) for name in ("to_target", "to_original"))
    return f"correlation with the target {target}, with the original map {original}"
