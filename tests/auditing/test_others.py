"""Methods of other packages and of the user's own beside built-in ones, in one audit."""

import pytest
import torch
from torch import nn

import veridical as vd
from veridical.auditing import PRESETS, Preset
from veridical.records import read_run


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", Preset(5, 3, 1, 2, 1, 3, ("gradient",), 2))


def ramp(model, inputs, target):
    """A map of its own."""
    return inputs * model(inputs).gather(1, target[:, None]).detach()[:, :, None, None]


def reasons(report):
    return {(one.method, one.test): (one.reason, one.applies) for one in report.run.skipped}


@pytest.mark.peer
def test_a_mixed_list_goes_through_every_test(network, images, tmp_path):
    captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    pytest.importorskip("zennit.composites", reason="needs zennit (make peers)")
    others = [vd.from_captum(captum.InputXGradient), vd.from_zennit("epsilon_plus"), ramp]
    names = ["captum.InputXGradient", "zennit.EpsilonPlus", "ramp", "gradient"]
    report = vd.audit(network, images, methods=[*others, "gradient"], out=tmp_path / "run")
    assert list(report.verdicts) == names
    measured = {(one.method, one.test) for one in report.scores}
    for name in names:
        assert {(name, "random-logit"), (name, "cascading-randomization")} <= measured
    skipped = reasons(report)
    for name in names[:3]:
        reason, applies = skipped[name, "cosine-convergence"]
        assert "it needs a method with layer-by-layer rules" in reason and not applies
        assert "cosine-convergence gave no result" not in report.verdicts[name].reason
        assert (
            report.verdicts[name].verdict != "not decided"
            or "too close to call" in report.verdicts[name].reason
        )
    assert "carries no derivative" in skipped["captum.InputXGradient", "manipulation"][0]
    assert "name the test to manipulate every method" in skipped["ramp", "manipulation"][0]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "it needs a method with layer-by-layer rules" in page and "captum.InputXGradient" in page
    assert (
        read_run(tmp_path / "run").methods["captum.InputXGradient"].options == "from_captum(InputXGradient)"
    )


@pytest.mark.peer
def test_a_method_of_captum_gets_the_scores_of_the_same_method_of_ours(network, images):
    captum = pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    theirs = vd.from_captum(captum.InputXGradient)
    report = vd.audit(network, images, methods=[theirs, "gradient-x-input"], tests=["random-logit"])
    rows = {name: [one.value for one in report.scores if one.method == name] for name in report.verdicts}
    assert rows["captum.InputXGradient"] == pytest.approx(rows["gradient-x-input"], rel=1e-6)


def test_a_believable_method_says_which_test_does_not_apply(network, images, tmp_path):
    policy = tmp_path / "policy.toml"
    rule = 'statistic = "{}"\nthreshold = 1.0\nsource = "s"\nlayer = "{}"\n'
    policy.write_text(
        'name = "x"\n[tests.random-logit]\n' + rule.format("median_ssim", "")
        + "[tests.cosine-convergence]\n" + rule.format("median_cosine", "last")
    )  # fmt: skip

    def own(model, inputs, target=None):
        return vd.explain(model, inputs, target)

    report = vd.audit(
        network, images, methods=[own], tests=["random-logit", "cosine-convergence"], policy=policy
    )
    verdict = report.verdicts["own"]
    assert verdict.verdict == "believable"
    assert "cosine-convergence does not apply: it needs a method with layer-by-layer rules" in verdict.reason


def test_a_named_manipulation_is_done_on_every_method_that_has_a_derivative(network, images):
    @torch.no_grad()
    def detached(model, inputs, target):
        return inputs * 2.0

    undone = vd.method("gradient-x-input").__class__
    denied = type("Denied", (), {"differentiable": False, "name": "denied", "__call__": undone.__call__})()
    methods = {"ramp": ramp, "detached": detached, "denied": denied}
    report = vd.audit(network, images, methods=methods, tests=["manipulation"])
    assert {one.method for one in report.scores} == {"ramp"}
    skipped = reasons(report)
    assert skipped["denied", "manipulation"][1] is False
    assert "to first order" in skipped["detached", "manipulation"][0]


def returning(value):
    def method(model, inputs, target):
        return value(inputs)

    return method


BAD = {
    "shape": (lambda x: x[:, :1], r"relevance of shape \(4, 3, 12, 12\) from method, got \(4, 1, 12, 12\)"),
    "count": (lambda x: x[:0], r"from method, got \(0, 3, 12, 12\)"),
    "array": (lambda x: x.detach().numpy(), "a torch tensor from method, got ndarray"),
    "tuple": (lambda x: (x, x), "from method, got tuple"),
    "whole": (lambda x: x.long(), "floating point relevance from method, got torch.int64"),
    "nan": (lambda x: x * torch.tensor([1.0, torch.nan, 1.0, 1.0])[: len(x), None, None, None],
            r"finite relevance from method, got NaN or infinity in image\(s\) \[1\]"),
    "zero": (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
    "assertion": (lambda x: pytest.fail.Exception and _fails(), "AssertionError: half-way"),
    "attribute": (lambda x: x.nothing, "AttributeError: 'Tensor' object has no attribute 'nothing'"),
}  # fmt: skip


def _fails():
    raise AssertionError("half-way")


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=BAD)
def test_a_bad_result_is_named_and_the_other_methods_go_on(value, message, network, images):
    tests = ["random-logit", "cascading-randomization"]
    report = vd.audit(network, images, methods=[returning(value), "gradient"], tests=tests)
    for test in tests:
        reason, applies = reasons(report)["method", test]
        assert applies and __import__("re").search(message, reason), reason
    assert report.verdicts["method"].verdict == "not decided"
    assert {one.test for one in report.scores if one.method == "gradient"} == set(tests)
    with pytest.raises(Exception, match=message.split(": ")[-1]):
        vd.random_logit(network, images, returning(value), batch=4)


@pytest.mark.parametrize("test", ["manipulate", "smoothgrad", "beta_smooth"])
@pytest.mark.parametrize("kind", ["shape", "array", "tuple"])
def test_a_bad_result_is_named_by_whatever_calls_the_method(test, kind, network, images):
    bad = returning(BAD[kind][0])
    with pytest.raises((TypeError, ValueError), match="from (method|beta-smooth)"):
        if test == "manipulate":
            vd.manipulate(network, images, torch.ones(5, 12, 12), method=bad, steps=2)
        elif test == "smoothgrad":
            vd.smoothgrad(bad)(network, images)
        else:
            vd.random_logit(network, images, vd.beta_smooth(bad))


def test_a_layer_that_overflows_when_random_is_not_measured_and_the_others_are(network, images):
    def overflows(model, inputs, target):
        first = model[0].weight.flatten()[0]
        return inputs * (1.0 if first == network[0].weight.flatten()[0] else torch.inf)

    result = vd.cascading_randomization(network, images, overflows)
    assert result.similarity[-1].isnan().all() and not result.similarity[0].isnan().any()


def test_a_class_is_refused_with_what_to_do(network, images):
    for run in (
        lambda: vd.audit(network, images, methods=[nn.ReLU]),
        lambda: vd.audit(network, images, methods={"mine": nn.ReLU}),
        lambda: vd.random_logit(network, images, nn.ReLU),
        lambda: vd.as_quantus(nn.ReLU),
    ):
        with pytest.raises(TypeError, match="got the class ReLU.*from_captum"):
            run()


def test_a_lambda_has_a_name(network, images):
    report = vd.audit(network, images, methods=[lambda model, x, target: x], tests=["random-logit"])
    assert list(report.verdicts) == ["lambda"]
