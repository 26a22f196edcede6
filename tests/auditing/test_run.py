import errno
import hashlib
import json
import os
from dataclasses import dataclass

import pytest
import torch

from veridical.attributions import method as find_method
from veridical.auditing import audit
from veridical.auditing.measure import measure
from veridical.records import read_arrays, read_run, read_scores

FAST = {"methods": ["gradient", "lrp-zplus"], "tests": ["random-logit", "cosine-convergence"]}


@dataclass(frozen=True)
class Broken:
    name: str = "broken"

    def __call__(self, model, inputs, target=None):
        raise ValueError("expected a network that it knows, got this one")


def rows(scores):
    return [tuple(map(repr, vars(score).values())) for score in scores]


def fingerprint(model):
    state = hashlib.sha256()
    for name, value in model.state_dict().items():
        state.update(name.encode() + value.numpy().tobytes())
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    return state.hexdigest(), flags, [(one.requires_grad, one.grad) for one in model.parameters()]


def count_measures(monkeypatch, fail_at=None, error=KeyboardInterrupt):
    calls = []

    def counted(subject, work):
        if len(calls) == fail_at:
            raise error
        calls.append(work.task.key)
        return measure(subject, work)

    monkeypatch.setattr("veridical.auditing.executor.measure", counted)
    return calls


def test_a_run_directory_holds_what_the_report_reads(network, images, tmp_path):
    report = audit(network, images, out=tmp_path / "run", **FAST)
    run = read_run(tmp_path / "run")
    assert run.finished and list(run.verdicts) == ["gradient", "lrp-zplus"]
    assert rows(read_scores(tmp_path / "run")) == rows(report.scores)
    arrays, metadata = read_arrays(tmp_path / "run" / "maps" / "gradient.safetensors")
    assert arrays["original"].shape == arrays["other_logit"].shape == (5, 12, 12)
    assert len(metadata["other_labels"]) == 5
    shown, _ = read_arrays(tmp_path / "run" / "maps" / "images.safetensors")
    assert (
        shown["images"].shape == (5, 3, 12, 12) and shown["images"].min() >= 0 and shown["images"].max() <= 1
    )


def test_labels_that_may_hold_at_once_have_a_probability_each(network, images):
    report = audit(network, images, model_info={"output": "labels"}, **FAST)
    with torch.no_grad():
        logits = network(images)
    for record, row in zip(report.run.images, logits, strict=True):
        assert record.probability == pytest.approx(float(row.sigmoid()[record.target]))
    assert report.run.model.output == "labels"


def test_all_tests_run_and_what_does_not_apply_is_recorded(network, images, tmp_path, monkeypatch):
    from veridical.auditing import PRESETS, Preset

    monkeypatch.setitem(PRESETS, "quick", Preset(5, 3, 1, 2, 1, 3, ("gradient",), 2))
    report = audit(network, images, out=tmp_path / "run", methods=["gradient", "smoothgrad"])
    assert {(one.method, one.test) for one in report.run.skipped} == {
        ("smoothgrad", "cosine-convergence"), ("smoothgrad", "manipulation"), ("smoothgrad", "curvature"),
        ("", "tangent-space"), ("", "roar"),
    }  # fmt: skip
    statistics = {score.statistic for score in report.scores if score.test == "manipulation"}
    assert {"pcc_to_target", "median_pcc_to_target", "linf", "class_kept", "median_pcc_margin"} <= statistics
    arrays, _ = read_arrays(tmp_path / "run" / "maps" / "manipulation" / "gradient.safetensors")
    assert arrays["manipulated_map"].shape == (1, 12, 12) and arrays["target_image"].shape == (1, 3, 12, 12)
    arrays, metadata = read_arrays(tmp_path / "run" / "maps" / "smoothgrad.safetensors")
    assert arrays["randomized"].shape == (len(metadata["layers"]), 5, 12, 12)


def test_pixel_flipping_stores_curves_margins_and_the_random_orders_once(network, images):
    model = Counting(network)
    report = audit(model, images, methods=["gradient", "lrp-zplus"], tests=["pixel-flipping"])
    found = {name: [one for one in report.scores if one.method == name] for name in report.verdicts}
    for method, rows_ in found.items():
        statistics = {one.statistic for one in rows_ if not one.layer}
        assert {"morf_margin", "median_morf_margin", "median_lerf_margin", "median_separation"} <= statistics
        summary = next(one for one in rows_ if one.statistic == "median_morf_margin")
        assert summary.n == 5 and summary.ci_low <= summary.value <= summary.ci_high
        curve = [one for one in rows_ if one.statistic == "median_random_probability"]
        assert [one.layer for one in curve] == ["0.00%", "4.86%", "15.28%", "40.28%"]
        settings = report.run.tests["pixel-flipping"].settings
        assert settings[f"reduction.{method}"] == ("max-abs" if method == "gradient" else "sum")
    curves = [[one.value for one in rows_ if "random_prob" in one.statistic] for rows_ in found.values()]
    assert curves[0] == curves[1]
    alone = audit(network, images, methods=["lrp-zplus"], tests=["pixel-flipping"])
    assert rows(alone.scores) == rows(found["lrp-zplus"])
    # 3 random orders of 3 steps once, and MoRF and LeRF of each method, on 5 images.
    flipped = 5 * 3 * (3 + 2 * 2)
    assert flipped <= model.images <= flipped + 8 * 5


def test_the_relevance_of_the_random_logit_test_serves_pixel_flipping(network, images):
    asked = []
    explain = find_method("gradient")

    def counted(model, inputs, target):
        asked.append(len(inputs))
        return explain(model, inputs, target)

    both = audit(network, images, methods={"m": counted}, tests=["random-logit", "pixel-flipping"])
    assert sum(asked) == 2 * 5
    alone = audit(network, images, methods={"m": counted}, tests=["pixel-flipping"])
    assert sum(asked) == 3 * 5
    flipping = [one for one in both.scores if one.test == "pixel-flipping"]
    assert rows(flipping) == rows(alone.scores)


class Counting(torch.nn.Module):
    """Counts the images that are predicted without a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network, self.images = network, 0
        self.eval()

    def forward(self, x):
        self.images += 0 if torch.is_grad_enabled() else len(x)
        return self.network(x)


def test_finished_work_is_not_done_again(network, images, tmp_path, monkeypatch):
    first = audit(network, images, out=tmp_path / "run", **FAST)
    calls = count_measures(monkeypatch)
    second = audit(network, images, out=tmp_path / "run", **FAST)
    assert calls == []
    assert rows(first.scores) == rows(second.scores) and first.verdicts == second.verdicts


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_interrupt_loses_nothing(place, network, images, tmp_path, monkeypatch):
    whole = audit(network, images, **FAST)
    with monkeypatch.context() as patch:
        done = count_measures(patch, fail_at=place)
        with pytest.raises(KeyboardInterrupt):
            audit(network, images, out=tmp_path / "run", **FAST)
    assert not read_run(tmp_path / "run").finished
    rest = count_measures(monkeypatch)
    resumed = audit(network, images, out=tmp_path / "run", **FAST)
    assert len(done) == place and len(done) + len(rest) == 4 and not set(done) & set(rest)
    assert rows(resumed.scores) == rows(whole.scores) and resumed.verdicts == whole.verdicts


def test_a_damaged_task_is_done_again(network, images, tmp_path, monkeypatch):
    audit(network, images, out=tmp_path / "run", **FAST)
    (tmp_path / "run" / "tasks" / "random-logit--gradient.json").write_text("{")
    (tmp_path / "run" / "tasks" / "random-logit--lrp-zplus.safetensors").write_bytes(b"half")
    calls = count_measures(monkeypatch)
    audit(network, images, out=tmp_path / "run", **FAST)
    assert sorted(calls) == ["random-logit--gradient", "random-logit--lrp-zplus"]


def test_memory_and_disk_give_the_same(network, images, tmp_path):
    report = audit(network, images, **FAST)
    report.save(tmp_path / "saved")
    audit(network, images, out=tmp_path / "run", **FAST)
    assert (tmp_path / "saved" / "scores.parquet").read_bytes() == (
        tmp_path / "run" / "scores.parquet"
    ).read_bytes()


def test_a_directory_with_something_else_is_refused_before_any_work(network, images, tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    calls = count_measures(monkeypatch)
    with pytest.raises(ValueError, match=r"holds 'thesis.txt' and no run.json; give another --out"):
        audit(network, images, out=tmp_path, **FAST)
    assert calls == [] and [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="got the file"):
        audit(network, images, out=tmp_path / "thesis.txt", **FAST)


def test_another_configuration_is_refused_and_named(network, images, tmp_path):
    audit(network, images, out=tmp_path / "run", **FAST)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"seed \(0 there, 1 now\)"):
        audit(network, images, out=tmp_path / "run", seed=1, **FAST)
    with pytest.raises(ValueError, match="images"):
        audit(network, images + 1, out=tmp_path / "run", **FAST)
    with torch.no_grad():
        network[0].weight.add_(1)
    with pytest.raises(ValueError, match="model"):
        audit(network, images, out=tmp_path / "run", **FAST)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_full_disk_is_named_and_leaves_no_half_file(network, images, tmp_path, monkeypatch):
    replace, count = os.replace, []

    def full(source, destination):
        count.append(destination)
        if len(count) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="no space left on the disk while writing .*; free some space"):
            audit(network, images, out=tmp_path / "run", **FAST)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".tmp")]
    assert audit(network, images, out=tmp_path / "run", **FAST).run.finished


def test_the_model_and_the_random_state_stay_as_they_are(network, images):
    before, state = fingerprint(network), torch.get_rng_state()
    audit(network, images, **FAST)
    assert fingerprint(network) == before and torch.equal(torch.get_rng_state(), state)


def test_they_stay_so_after_an_interrupt(network, images, monkeypatch):
    count_measures(monkeypatch, fail_at=1)
    before, state = fingerprint(network), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        audit(network, images, **FAST)
    assert fingerprint(network) == before and torch.equal(torch.get_rng_state(), state)


def test_training_mode_is_named_and_put_back(network, images):
    network.train()
    with pytest.warns(UserWarning, match="training mode"):
        audit(network, images, methods=["gradient"], tests=["random-logit"])
    assert all(module.training for module in network.modules())


def test_a_method_that_fails_does_not_end_the_audit(network, images):
    methods = {"gradient": find_method("gradient"), "broken": Broken()}
    report = audit(network, images, methods=methods, tests=["random-logit"])
    assert report.verdicts["broken"].verdict == "not decided"
    assert "expected a network that it knows" in report.verdicts["broken"].reason


def test_every_image_is_scored_under_its_name(network, images):
    report = audit(network, images, names=list("abcde"), **FAST)
    found = [
        score.image for score in report.scores if score.statistic == "ssim" and score.method == "gradient"
    ]
    assert found == list("abcde")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "quik"}, "did you mean quick"),
        ({"methods": ["lrp-zpluss"]}, "did you mean lrp-zplus"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["gradient", "gradient"]}, "different names"),
        ({"methods": {"../x": Broken()}}, "letters"),
        ({"tests": ["random-logits"]}, "did you mean random-logit"),
        ({"tests": []}, "at least one test"),
        ({"target": 5}, "target in 0..4, got 5"),
        ({"names": ["a"]}, "5 different"),
    ],
)
def test_wrong_arguments_are_named(options, message, network, images):
    with pytest.raises(ValueError, match=message):
        audit(network, images, **options)


def test_nan_and_noise_are_found_before_the_work(network, images):
    images[2, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinity in image\(s\) \[2\]"):
        audit(network, images)

    class Noisy(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) + torch.randn(len(x), 3)

    with pytest.raises(ValueError, match="deterministic"):
        audit(Noisy().eval(), torch.zeros(2, 3, 8, 8))


def test_a_model_that_edits_its_input_is_refused():
    class Edits(torch.nn.Module):
        def forward(self, x):
            return x.mul_(2).mean((2, 3))

    given = torch.ones(2, 3, 8, 8)
    with pytest.raises(ValueError, match="got Edits in place on the input"):
        audit(Edits().eval(), given)
    assert torch.equal(given, torch.ones(2, 3, 8, 8))


def test_run_json_is_strict_json(network, images, tmp_path):
    audit(network, images[:1], out=tmp_path / "run", methods=["gradient"])

    def refuse(text):
        raise AssertionError(text)

    json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=refuse)


def test_sign_flips_are_stored_with_their_share(network, images):
    tests = ["random-logit", "cascading-randomization"]
    report = audit(network, images, methods=["gradient-x-input"], tests=tests)
    for test in tests:
        found = [score for score in report.scores if score.test == test]
        layers = {score.layer for score in found}
        for layer in layers:
            flips = [score.value for score in found if score.statistic == "flipped" and score.layer == layer]
            (share,) = [
                score for score in found if score.statistic == "flipped_share" and score.layer == layer
            ]
            assert len(flips) == 5 and set(flips) <= {0.0, 1.0}
            assert share.value == sum(flips) / 5 and share.ci_low < share.value + 1e-12 < share.ci_high + 1e-9
            assert share.n == 5


def test_the_unchanged_network_is_explained_once_for_all_tests(network, images):
    seen = []

    def watched(model, inputs, target=None):
        seen.append((model is network, len(inputs)))
        return inputs * target[:, None, None, None]

    tests = ["random-logit", "cascading-randomization", "pixel-flipping"]
    audit(network, images, methods={"watched": watched}, tests=tests)
    # Both classes of every image, and nothing else on the network as it is.
    assert sum(count for unchanged, count in seen if unchanged) == 2 * 5
