import pytest

from veridical.auditing import PolicyError, load_policy

GOOD = '[tests.random-logit]\nstatistic = "median_ssim"\nthreshold = 0.9\nsource = "a paper"\n'


def test_the_default_policy_judges_all_tests():
    policy = load_policy()
    assert [name for name, rule in policy.tests.items() if not rule.required] == [
        "pixel-flipping", "manipulation",
    ]  # fmt: skip
    assert len(policy.tests) == 5


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
