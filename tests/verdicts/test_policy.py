import math

import pytest

from veridical.auditing import audit
from veridical.verdicts import TEST_NAMES, Policy, PolicyError, load_policy
from veridical.verdicts.policy import STATISTICS

GOOD = '[tests.random-logit]\nstatistic = "median_ssim"\nthreshold = 0.9\nsource = "a paper"\n'


def test_the_default_policy_judges_all_tests():
    policy = load_policy()
    assert [name for name, rule in policy.tests.items() if not rule.required] == [
        "pixel-flipping", "manipulation", "tangent-space", "curvature", "infidelity", "sensitivity", "roar",
    ]  # fmt: skip
    assert len(policy.tests) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "syntax error"),
        ('name = "x"\n', "'tests'"),
        (f'name = "x"\n{GOOD}'.replace("0.9", '"high"'), "tests.random-logit.threshold"),
        (f'name = "x"\n{GOOD}'.replace("0.9", "nan"), "tests.random-logit.threshold"),
        (f'name = "x"\n{GOOD}'.replace('source = "a paper"', ""), "tests.random-logit.source"),
        (f'name = "x"\n{GOOD}treshold = 1.0\n', "tests.random-logit.treshold"),
        (f'name = "x"\n{GOOD}'.replace("random-logit", "random-logits"), "did you mean random-logit"),
        (f'name = "x"\nadmit = ["maybe"]\n{GOOD}', "admit.0"),
        (f'name = "x"\n{GOOD}minimum_images = 0\n', "minimum_images"),
        (f'name = "x"\n{GOOD}treshold = 1.0\n', r"\(= 1.0\); did you mean threshold"),
        (f'nam = "x"\n{GOOD}', r"unknown key 'nam' \(= 'x'\); did you mean name"),
        (f'name = "x"\n{GOOD}'.replace("median_ssim", "median_sim"), "did you mean median_ssim"),
        (
            f'name = "x"\n{GOOD}'.replace("0.9", "1.2"),
            "random-logit.threshold': expected -1 to 1.*got 1.2",
        ),
        (f'name = "x"\nlevel = 1.0\n{GOOD}', "'level'.*less than 1.*got '1.0'"),
        (f'name = "x"\nlevel = "99 %"\n{GOOD}', "'level'.*number.*got '99 %'"),
        (f'name = "x"\ncomparisons = "bonferoni"\n{GOOD}', "'comparisons'.*'holm' or 'none'.*bonferoni"),
        (f'name = "x"\ninterval = "wald"\n{GOOD}', "'interval'.*'bootstrap' or 'exact'.*wald"),
        (f'name = "x"\n{GOOD}required = 1\n', "tests.random-logit.required.*boolean"),
    ],
)
def test_a_wrong_policy_is_named(text, message, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_good_policy_is_read(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'name = "x"\n{GOOD}'.replace("0.9", "1"))
    assert load_policy(path).tests["random-logit"].threshold == 1.0


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(PolicyError, match="No such file"):
        load_policy(tmp_path / "none.toml")


def test_the_default_file_says_what_the_defaults_are():
    bare = {"name": "default", "tests": load_policy().model_dump()["tests"]}
    assert Policy.model_validate(bare) == load_policy()


@pytest.mark.slow
def test_every_statistic_of_the_list_is_one_that_an_audit_stores(network, images):
    report = audit(network, images, preset="quick", methods=["lrp-zplus"], tests=list(TEST_NAMES))
    stored = {(score.test, score.statistic) for score in report.scores if not math.isnan(score.ci_low)}
    listed = {(test, name) for test, known in STATISTICS.items() for name in known}
    assert not listed - stored


def test_a_policy_lists_methods_of_the_run():
    policy = load_policy().model_copy(update={"methods": ["b", "b"]})
    assert policy.listed(["a", "b"]) == ["b"] and load_policy().listed(["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match="got no 'b'; known: a"):
        policy.listed(["a"])
