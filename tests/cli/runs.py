"""Run directories as an audit leaves them, without an audit: values by image are given."""

import hashlib
import statistics

from veridical.records import ImageRecord, Run, Score, write_run, write_scores

ONE = {"random-logit": "ssim", "cascading-randomization": "ssim", "cosine-convergence": "cosine",
       "pixel-flipping": "morf_margin"}  # fmt: skip
MEDIAN = {test: f"median_{name}" for test, name in ONE.items()}
LAYER = {"cascading-randomization": "top", "cosine-convergence": "conv1"}


def rows(method, test, values):
    """The rows of one test: an image each, and the median."""
    layer = LAYER.get(test, "")
    found = [Score(method, test, ONE[test], value, f"{k}.png", layer) for k, value in enumerate(values)]
    stored = {"ci_low": min(values), "ci_high": max(values), "n": len(values)}
    return [*found, Score(method, test, MEDIAN[test], statistics.median(values), layer=layer, **stored)]


def store(directory, given, **changes):
    """Write a run.

    Args:
        directory: where.
        given: by method, by test, the values of the images.
        changes: `salt` makes other pixels of the same names, the rest are fields of the run.
    """
    salt = changes.pop("salt", "")
    count = max(len(values) for tests in given.values() for values in tests.values())
    tests = {test: None for tests in given.values() for test in tests}
    images = [
        ImageRecord(
            name=f"{k}.png", sha256=hashlib.sha256(f"{salt}{k}".encode()).hexdigest(), width=8, height=8,
            target=0, probability=0.9,
        )
        for k in range(count)
    ]  # fmt: skip
    fields = {
        "veridical": "0", "created": "2026-01-02T03:04:05+00:00", "finished": True, "settings": {},
        "environment": {"python": "3", "torch": "2", "platform": "x", "threads": 1},
        "model": {"name": "net", "sha256": "0", "parameters": 1, "classes": 2},
        "tests": {test: {"settings": {"seed": 0, "images": count}} for test in tests},
        "methods": {name: {"options": f"{name}()"} for name in given},
        "images": images,
    }  # fmt: skip
    run = Run(**{**fields, **changes})
    if "cosine-convergence" in run.tests:
        run.tests["cosine-convergence"].settings["first_convolution"] = "conv1"
    each = [(name, *one) for name, tests in given.items() for one in tests.items()]
    write_scores(directory, [row for one in each for row in rows(*one)])
    write_run(directory, run)
    return directory


def spread(low, high, count=20):
    return [low + (high - low) * k / (count - 1) for k in range(count)]


POLICY = """
name = "small"
methods = {methods}
level = 0.9
[tests.random-logit]
statistic = "median_ssim"
threshold = 0.9
source = "a paper"
[tests.pixel-flipping]
required = false
statistic = "median_morf_margin"
fails = "below"
threshold = 0.0
source = "another"
"""
