"""A made-up run directory: realistic in form and size, invented in every number."""

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from veridical.records import (
    EnvironmentRecord,
    Evidence,
    ImageRecord,
    MethodRecord,
    ModelRecord,
    Run,
    Score,
    SkippedRecord,
    TestRecord,
    Verdict,
    write_arrays,
    write_run,
    write_scores,
)

TESTS = ("random-logit", "cascading-randomization", "cosine-convergence", "manipulation", "pixel-flipping")
JUDGED = {
    "random-logit": {"statistic": "median_ssim"},
    "cascading-randomization": {"statistic": "median_ssim", "layer": "first"},
    "cosine-convergence": {"statistic": "median_cosine", "layer": "last"},
    "manipulation": {"required": False},
    "pixel-flipping": {"required": False, "statistic": "median_morf_margin"},
}
REMOVED = ("0.00%", "5.00%", "15.00%", "40.00%")
COSINES = ("0.9999 to 1", "0.999 to 0.9999", "0.99 to 0.999", "0.9 to 0.99", "0.8 to 0.9", "0 to 0.8")
LAYERS = ("classifier", "features.7", "features.5", "features.3", "features.1", "features.0")
SIGNED = ("gradient", "lrp-z", "guided-backprop")


def blobs(size, count, generator):
    """Smooth bumps, (count, size, size), positive."""
    grid = np.linspace(-1, 1, size)
    centers = generator.uniform(-0.6, 0.6, (count, 2))
    widths = generator.uniform(0.15, 0.5, count)
    square = (grid[None, :, None] - centers[:, 0, None, None]) ** 2 + (grid - centers[:, 1, None])[
        :, None, :
    ] ** 2
    return np.exp(-square / widths[:, None, None] ** 2)


def photographs(size, count, generator):
    """Colorful pictures (count, 3, size, size) in [0, 1]."""
    return np.stack([blobs(size, 3, generator) for _ in range(count)]).clip(0, 1)


def write_maps(directory, method, photos, *, generator):
    """Write the maps of one method and its manipulation."""
    count, size = len(photos), photos.shape[-1]
    noise = generator.standard_normal((2 + len(LAYERS), count, size, size)) * blobs(size, count, generator)
    if method not in SIGNED:
        noise = np.abs(noise)
    maps = (noise * 1e-3).astype(np.float32)
    arrays = {"original": maps[0], "other_logit": maps[1], "randomized": maps[2:]}
    write_arrays(directory / "maps" / f"{method}.safetensors", arrays, {"layers": LAYERS})
    change = 0.01 * generator.standard_normal(photos[:1].shape)
    unit = np.abs(maps[:3, :1]) / np.abs(maps[:3, :1]).sum((-2, -1), keepdims=True)
    arrays = {"original_map": unit[0], "target_map": unit[1], "manipulated_map": unit[2]}
    arrays["original_image"], arrays["target_image"] = photos[:1], photos[-1:]
    arrays["manipulated_image"] = (photos[:1] + change).clip(0, 1)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    names = {"images": ["photo-0.png"], "target_images": ["target.png"]}
    write_arrays(directory / "maps" / "manipulation" / f"{method}.safetensors", arrays, names)


def scores_of(method, names, level, generator):
    """Rows of one method, `level` near 1 for a method that ignores the network."""
    rows = [
        Score(method, "random-logit", "ssim", level - 0.02 * k, image=name) for k, name in enumerate(names)
    ]
    rows.append(
        Score(method, "random-logit", "median_ssim", level, ci_low=level - 0.1, ci_high=level + 0.02, n=6)
    )
    for place, layer in enumerate(LAYERS):
        value = level * math.exp(-0.2 * place)
        for name in names:
            rows.append(Score(method, TESTS[1], "ssim", value, image=name, layer=layer))
        interval = {"ci_low": value - 0.08, "ci_high": value + 0.08, "n": len(names)}
        rows.append(Score(method, TESTS[1], "median_ssim", value, layer=layer, **interval))
    for place, layer in enumerate((*LAYERS, "input")):
        rest = 10.0 ** (-place * level)
        aggregate = {"median_cosine": 1 - 0.95 * rest, "mean_cosine": 1 - 0.97 * rest}
        aggregate |= {"one_minus_median_cosine": 0.95 * rest, "random_baseline": 0.05 + 0.02 * place}
        for percentile in (0, 1, 5, 10, 20, 80, 95, 99, 100):
            aggregate[f"one_minus_percentile_{percentile}_cosine"] = rest * 10 ** (0.5 - percentile / 100)
        aggregate |= {"nan_fraction": 0.01 * place, "resolution": 2e-15, "unresolved_fraction": 0.0}
        rows += [Score(method, TESTS[2], key, value, layer=layer, n=30) for key, value in aggregate.items()]
    for place, bounds in enumerate(COSINES):
        rows.append(Score(method, TESTS[2], "cosines", 100.0 * (place < 3), layer=bounds, n=30))
    for order, speed in (("morf", 9), ("lerf", 1), ("random", 4)):
        for removed in REMOVED:
            value = 0.9 * math.exp(-speed * level * float(removed[:-1]) / 100)
            bounds = {"ci_low": value - 0.05, "ci_high": value + 0.05, "n": len(names)}
            rows.append(
                Score(method, TESTS[4], f"median_{order}_probability", value, layer=removed, **bounds)
            )
    rows.append(Score(method, TESTS[4], "median_morf_margin", 0.2, ci_low=0.1, ci_high=0.3, n=6))
    figures = {
        "pcc_to_target": 0.71,
        "pcc_to_original": 0.22,
        "ssim_to_target": 0.44,
        "ssim_to_original": 0.2,
    }
    figures |= {"linf": 0.043, "l2": 3.1, "psnr": 38.2, "probability_change": -2e-5, "class_kept": 1.0}
    rows += [Score(method, TESTS[3], key, value, image=names[0]) for key, value in figures.items()]
    return rows


def evidence_of(level):
    """The five pieces of evidence for a method."""
    source = "Sixt et al. 2020, section 5"

    def entry(test, statistic, value, threshold):
        passed = None if math.isnan(value) else value <= threshold
        return Evidence(
            test=test, statistic=statistic, value=value, ci_low=value - 0.1, ci_high=value + 0.03, n=6,
            threshold=threshold, direction="fails above", passed=passed, source=source,
        )  # fmt: skip

    return [
        entry(TESTS[0], "median_ssim", level, 0.6),
        entry(TESTS[1], "median_ssim", level * 0.37, 0.35),
        entry(TESTS[2], "median_cosine", level * 0.999, 0.9),
        entry(TESTS[3], "median_pcc_margin", math.nan, 0.0),
        entry(TESTS[4], "median_morf_margin", 0.2, 0.0),
    ]


def write_example(directory, photos, methods):
    """Write a whole run directory of made-up results."""
    generator = np.random.default_rng(0)
    names = [f"photo-{place}.png" for place in range(len(photos))]
    scores, verdicts = [], {}
    for place, method in enumerate(methods):
        level = (0.31, 0.97, 0.58)[place % 3]
        write_maps(directory, method, photos, generator=generator)
        scores += scores_of(method, names, level, generator)
        verdict = ("believable", "not believable", "not decided")[place % 3]
        reason = ("It passed every test.", "It failed two tests.", "The interval includes the threshold.")[
            place % 3
        ]
        verdicts[method] = Verdict(verdict=verdict, reason=reason, evidence=evidence_of(level))
    images = (np.rint(photos * 255)).astype(np.uint8)
    write_arrays(directory / "maps" / "images.safetensors", {"images": images})
    write_scores(directory, scores)
    write_run(directory, _description(names, photos.shape[-1], methods, verdicts))
    return directory


def _description(names, size, methods, verdicts):
    def digest(text):
        return hashlib.sha256(text.encode()).hexdigest()

    images = [
        ImageRecord(
            name=name, sha256=digest(name), width=size, height=size, target=place, label=f"thing {place}",
            probability=0.93 - 0.05 * place,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    tests = {name: TestRecord(description=name, settings={"seed": 0, "level": 0.99}) for name in TESTS}
    facts = {"first_convolution": LAYERS[-1], "channels": 16, "precision": "float32"}
    tests["cosine-convergence"].settings.update(facts)
    settings = {"seed": 0, "preset": "quick", "methods": list(methods), "tests": list(TESTS), "device": "cpu"}
    return Run(
        veridical="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        finished=True,
        command=["veridical", "audit", "--preset", "quick"],
        settings=settings,
        environment=EnvironmentRecord(python="3.11.2", torch="2.0", platform="Linux x86_64", threads=2),
        model=ModelRecord(
            name="EfficientNet-Lite0", source="demo", sha256=digest("model"), parameters=4_652_008,
            classes=1000, preprocessing={"mean": [0.5, 0.5, 0.5]},
        ),
        images=images,
        methods={name: MethodRecord(options=f"{name}()", description="What it does.") for name in methods},
        tests=tests,
        policy={"name": "default", "tests": JUDGED},
        verdicts=verdicts,
        skipped=[SkippedRecord(method=methods[-1], test="manipulation", reason="it is not differentiable")],
    )  # fmt: skip


@pytest.fixture(scope="session")
def example(tmp_path_factory) -> Path:
    """A small made-up run directory, made once; not to be changed."""
    photos = photographs(24, 2, np.random.default_rng(1))
    directory = tmp_path_factory.mktemp("example") / "run"
    return write_example(directory, photos, ("gradient", "lrp-zplus", "guided-backprop"))


@pytest.fixture
def run_directory(example, tmp_path: Path) -> Path:
    """A copy of the made-up run directory that a test may change."""
    return Path(shutil.copytree(example, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))
