import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cli.attacking import record
from veridical.attacks import stored
from veridical.cli.attack_files import FILES
from veridical.cli.main import app
from veridical.models import load_model


def test_all_files_are_written_and_say_what_happened(call, tmp_path):
    result = call("--target-text", "no")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == set(FILES) == set(record(tmp_path)["files"])
    found = record(tmp_path)
    assert found["finished"] and not found["interrupted"] and found["kept_step"] > 0
    assert found["after"]["to_target"]["pcc"] > found["before"]["to_target"]["pcc"] + 0.1
    assert found["after"]["output"]["class_kept"]
    assert found["after"]["output"]["label_before"] in ("cat", "dog", "bird")
    assert set(found["stored"]) == {"png-16", "png-8", "jpeg-95", "jpeg-75"}
    assert found["target"] == {"kind": "text", "text": "no"}
    assert found["settings"]["steps"] == 25 and found["preset"] == "default"
    assert found["method"] == {"name": "gradient", "options": "Gradient(output='logit')"}
    assert [entry["step"] for entry in found["history"]] == [0, 10, 20, 25]
    assert len(found["model"]["sha256"]) == len(found["image"]["sha256"]) == 64
    assert result.stdout.strip().splitlines()[-1] == str(out / "figure.png")
    shown = f"{found['after']['to_target']['pcc']:.2f}"
    assert f"the manipulated image: correlation with the target {shown}" in result.stdout


def test_the_files_hold_what_was_measured(call, tmp_path, undrawn):
    call("--target-region", "0.25,0.25,0.75,0.75")
    out, found = tmp_path / "out", record(tmp_path)
    images, maps = load_file(out / "images.safetensors"), load_file(out / "maps.safetensors")
    assert images["clean"].shape == images["manipulated"].shape == (1, 3, 32, 32)
    loaded = load_model("attackmodule:build")
    clean, changed = (torch.from_numpy(images[name]) for name in ("clean", "manipulated"))
    assert torch.equal(clean[0], loaded.preprocessing.apply(Image.open(tmp_path / "one.png")))
    x = changed.clone().requires_grad_(True)
    loaded.module(x).max().backward()
    expected = x.grad.abs().sum(1) / x.grad.abs().sum()
    assert torch.allclose(torch.from_numpy(maps["manipulated"]), expected, atol=1e-6)
    pair = np.corrcoef(maps["manipulated"].ravel(), maps["target"].ravel())[0, 1]
    assert found["after"]["to_target"]["pcc"] == pytest.approx(pair, abs=1e-5)
    show = loaded.preprocessing.denormalize
    change = (show(changed) - show(clean)).abs().max()
    assert found["after"]["image"]["linf"] == pytest.approx(float(change), abs=1e-5)
    # The picture with 8 bits is the one that "png-8" measures.
    pixels = np.asarray(Image.open(out / "manipulated.png"))
    limits = tuple(side[None] for side in loaded.preprocessing.bounds())
    read = show(stored(changed, limits, "png-8"))[0].permute(1, 2, 0)
    assert np.array_equal(pixels, (read * 255).round().numpy().astype(np.uint8))


def test_the_preprocessing_of_the_option_is_the_one_that_is_attacked(call, tmp_path, undrawn):
    sizes = tmp_path / "sizes.json"
    sizes.write_text('{"resize": 32, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}')
    for option, low in (("none", 0.0), (sizes, -1.0)):
        result = call("--target-text", "no", "--preprocessing", option, steps=5)
        assert result.exit_code == 0, result.output
        found = record(tmp_path)
        assert set(found["settings"]["bounds"][0]) == {low} and set(found["settings"]["bounds"][1]) == {1.0}
        images = load_file(tmp_path / "out" / "images.safetensors")
        assert images["clean"].shape == images["manipulated"].shape == (1, 3, 32, 32)
        assert all(one.min() >= low and one.max() <= 1 for one in images.values())
        assert found["model"]["preprocessing"]["mean"] == ([0.0] * 3 if option == "none" else [0.5] * 3)


def test_the_same_attack_twice_differs_in_its_times_only(call, tmp_path):
    arguments = ("--target-image", tmp_path / "two.png", "--smoothgrad", 2, "--seed", 3)
    contents = []
    for _ in range(2):
        assert call(*arguments, steps=6).exit_code == 0
        found = record(tmp_path)
        assert set(found.pop("times")) == {"created", "seconds"}
        rest = {name: (tmp_path / "out" / name).read_bytes() for name in FILES if name != "result.json"}
        contents.append((found, rest))
    assert contents[0] == contents[1]
    assert "NoiseAveraged" in contents[0][0]["method"]["options"] and "seed=3" in str(
        contents[0][0]["method"]
    )


def test_the_seed_is_that_of_the_noise(call, tmp_path, undrawn):
    found = []
    for seed in (3, 4):
        call("--target-text", "no", "--smoothgrad", 2, "--seed", seed, steps=2)
        found.append(record(tmp_path)["after"])
    assert found[0] != found[1]


def test_every_kind_of_target(call, tmp_path, undrawn):
    values = np.random.default_rng(1).random((20, 30)).astype(np.float32)
    np.save(tmp_path / "map.npy", values)
    save_file({"map": values[None]}, tmp_path / "map.safetensors")
    kinds = {
        "image": ("--target-image", tmp_path / "two.png"),
        "map": ("--target-map", tmp_path / "map.npy"),
        "region": ("--target-region", "2,3,20,21"),
        "uniform": ("--target-uniform",),
    }
    for kind, arguments in kinds.items():
        result = call(*arguments, steps=2)
        assert result.exit_code == 0, result.output
        assert record(tmp_path)["target"]["kind"] == kind
    assert record(tmp_path)["settings"]["keep"] == "last"  # nothing correlates with a uniform map
    assert record(tmp_path)["after"]["to_target"]["pcc"] is None
    assert "correlation with the target not measured" in result.stdout
    call(*kinds["map"], steps=2)
    first = load_file(tmp_path / "out" / "maps.safetensors")["target"]
    assert "linear" in record(tmp_path)["target"]["filter"]
    call("--target-map", tmp_path / "map.safetensors", steps=2)
    assert np.array_equal(load_file(tmp_path / "out" / "maps.safetensors")["target"], first)
    call("--target-map", tmp_path / "two.png", steps=2)
    assert load_file(tmp_path / "out" / "maps.safetensors")["target"].shape == (1, 32, 32)


def test_the_image_changes_no_more_than_allowed(call, tmp_path, undrawn):
    limits = ("--max-linf", 0.02, "--max-l2", 0.4)
    result = call("--target-region", "2,3,20,21", "--lr", 0.1, *limits, steps=3)
    assert result.exit_code == 0, result.output
    found = record(tmp_path)
    assert 0 < found["after"]["image"]["linf"] <= 0.02 * (1 + 1e-5)
    assert 0 < found["after"]["image"]["l2"] <= 0.4 * (1 + 1e-5)
    assert (found["settings"]["max_linf"], found["settings"]["max_l2"]) == (0.02, 0.4)


def test_the_map_of_another_image_is_that_of_the_defended_method(call, tmp_path, undrawn):
    call("--target-image", tmp_path / "two.png", "--smooth-beta", 2, steps=2)
    found = record(tmp_path)
    assert found["target"]["label"] in ("cat", "dog", "bird") and len(found["target"]["sha256"]) == 64
    assert found["method"]["options"] == "BetaSmoothed(explainer=Gradient(output='logit'), beta=2.0)"
    import veridical as vd

    loaded = load_model("attackmodule:build")
    other = loaded.preprocessing.apply(Image.open(tmp_path / "two.png"))[None]
    smooth = vd.beta_smooth(vd.method("gradient"), beta=2.0)
    expected = vd.saliency(smooth(loaded.module, other))
    target = load_file(tmp_path / "out" / "maps.safetensors")["target"]
    assert np.allclose(target, expected.numpy(), atol=1e-7)


def test_a_preset_is_converted_to_the_range_of_the_input(call, tmp_path, undrawn):
    found = CliRunner().invoke(
        app, ["attack", "--model", "attackmodule:build", "--image", str(tmp_path / "one.png"), "--preset",
              "table1-gradient", "--steps", "2", "--target-text", "no", "--out", str(tmp_path / "out")]
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    settings = record(tmp_path)["settings"]
    # The preprocessing of the test's network is ImageNet's, to which the preset belongs.
    assert settings["lr"] == pytest.approx(1e-3, rel=1e-5) and settings["steps"] == 2
    assert settings["factors"] == [1e11, 1e6]


def test_a_preset_brings_its_method_and_its_smoothing(call, tmp_path, undrawn):
    def attacked(*more):
        result = call("--target-text", "no", *more, steps=1)
        assert result.exit_code == 0, result.output
        return record(tmp_path)["method"]

    gradient = "Gradient(output='logit-value')"
    assert attacked("--preset", "table5-gradient") == {
        "name": "gradient", "options": f"BetaSmoothed(explainer={gradient}, beta=0.8)"
    }  # fmt: skip
    averaged = attacked("--preset", "table4-gradient")["options"]
    assert averaged.startswith(f"NoiseAveraged(explainer={gradient}, samples=10")
    lrp = attacked("--preset", "table1-lrp", "--preprocessing", "none")
    assert lrp["name"] == "deep-taylor" and "bounds=(0.0, 1.0)" in lrp["options"]
    assert "bias='none'" in lrp["options"] and "first='z-box'" in lrp["options"]
    # What is on the command line wins.
    own = attacked("--preset", "table5-gradient", "--method", "gradient-x-input", "--smooth-beta", 2)
    assert own["name"] == "gradient-x-input" and own["options"].endswith("beta=2.0)")
    assert "logit-value" not in own["options"]
    kept = attacked("--preset", "table5-lrp", "--method", "gradient")["options"]
    assert kept == "BetaSmoothed(explainer=Gradient(output='logit'), beta=0.8)"
    only = attacked("--preset", "table5-gradient", "--smoothgrad", 2)["options"]
    assert "NoiseAveraged" in only and "BetaSmoothed" not in only


def test_a_preset_whose_method_needs_patterns_asks_for_them(call, tmp_path):
    result = call("--target-text", "no", "--preset", "table1-pattern-attribution")
    assert result.exit_code == 2 and "expected patterns for pattern-attribution" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_interrupt_keeps_the_best_and_writes_everything(call, tmp_path, monkeypatch):
    def interrupted(moment):
        if moment.step == 12:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr("veridical.cli.attack._words", interrupted)
    result = call("--target-text", "no")
    assert result.exit_code == 130, result.output
    found = record(tmp_path)
    assert found["interrupted"] and found["kept_step"] == 10 and found["finished"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(FILES)
    assert "interrupted: the best of the steps until then is kept, step 10" in result.stdout


def test_an_interrupt_before_the_attack_writes_nothing(call, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("veridical.cli.options.load_model", interrupted)
    result = call("--target-text", "no")
    assert result.exit_code == 130 and "nothing was written" in result.stderr
    assert not (tmp_path / "out").exists()


def test_progress_says_the_correlation_and_the_class(call, monkeypatch, undrawn):
    import veridical.cli.attack as attack

    seen, words = [], attack._words
    monkeypatch.setattr(attack, "_words", lambda moment: seen.append(words(moment)) or seen[-1])
    call("--target-text", "no", steps=12)
    assert len(seen) == 12
    assert seen[0].startswith("correlation ") and seen[0].endswith(", smoothed, class kept")
    first, last = (float(text.split()[1].rstrip(",")) for text in (seen[0], seen[8]))
    assert last > first


def test_the_random_state_and_the_directory_are_left_alone(call, tmp_path, undrawn):
    state = torch.get_rng_state()
    call("--target-text", "no", "--smoothgrad", 2, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "expected exactly one target, got none; give one of --target-image, --target-map"),
        (("--target-text", "a", "--target-uniform"), "got --target-text, --target-uniform"),
        (("--target-text", "漢"), "which it lacks"),
        (("--target-text", ""), "visible character"),
        (("--target-region", "1,2,3"), "four whole numbers (pixels)"),
        (("--target-region", "1,2,0.5,3"), "got '1,2,0.5,3'"),
        (("--target-region", "1,2,a,3"), "four whole numbers"),
        (("--target-region", "0,0,33,8"), "inside of 32 x 32"),
        (("--target-image", "/nowhere.png"), "/nowhere.png"),
        (("--target-map", "/nowhere.npy"), "/nowhere.npy"),
        (("--target-text", "a", "--method", "gradiant"), "did you mean gradient"),
        (("--target-text", "a", "--method", "gradient,lrp-z"), "expected one method, got 'gradient,lrp-z'"),
        (
            ("--target-text", "a", "--method", "attackmodule:still"),
            "expected a differentiable method, got still",
        ),
        (("--target-text", "a", "--preset", "table9"), "did you mean table"),
        (("--target-text", "a", "--steps", "0"), "steps of at least 1, got 0"),
        (("--target-text", "a", "--lr", "-1"), "positive, finite lr, got -1"),
        (("--target-text", "a", "--max-linf", "-1"), "max_linf of 0 or more and finite, got -1"),
        (("--target-text", "a", "--max-l2", "nan"), "max_l2 of 0 or more and finite, got nan"),
        (("--target-text", "a", "--smooth-beta", "0"), "positive, finite beta, got 0"),
        (("--target-text", "a", "--smoothgrad", "0"), "samples of at least 1, got 0"),
        (("--target-text", "a", "--device", "abacus"), "abacus"),
        (("--target-text", "a", "--model", "attackmodule:none"), "none"),
        (("--target-text", "a", "--preprocessing", "nonne"), "expected none or a JSON file"),
        (("--target-text", "a", "--image", "/nowhere.png"), "/nowhere.png"),
        (("--target-text", "a", "--out", __file__), "expected a directory to write to"),
        (("--target-text", "a", "--out", f"{__file__}/below"), "expected a directory to write to"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(more, message, call, tmp_path):
    result = call(*more)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and "error: " in result.stderr
    assert "Traceback" not in result.output and not (tmp_path / "out").exists()


def test_a_method_that_cannot_be_attacked_is_refused_before_anything_is_loaded(call, monkeypatch):
    def never(*_, **__):
        raise RuntimeError("loaded")

    monkeypatch.setattr("veridical.cli.options.load_model", never)
    for more in (("--method", "attackmodule:still"), ("--smooth-beta", "-1"), ("--preset", "x")):
        result = call("--target-text", "a", *more)
        assert result.exit_code == 2 and "loaded" not in result.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (-np.ones((4, 4)), "without negative values, got a minimum of -1"),
        (np.zeros((4, 4)), "got zeros only"),
        (np.ones((3, 4, 4)), r"got shape (3, 4, 4)"),
        (np.ones((4, 4), dtype=complex), "got complex128"),
        (np.array([[None]], dtype=object), "allow_pickle=False"),
    ],
)
def test_a_file_without_a_map_is_refused(values, message, call, tmp_path):
    np.save(tmp_path / "bad.npy", values, allow_pickle=True)
    result = call("--target-map", tmp_path / "bad.npy")
    assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "out").exists()


def test_damaged_files_and_files_with_several_maps_are_refused(call, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678abc")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    save_file({"a": np.ones((2, 2)), "b": np.ones((2, 2))}, tmp_path / "two.safetensors")
    for name in ("bad.npy", "bad.safetensors"):
        result = call("--target-map", tmp_path / name)
        assert result.exit_code == 2 and "expected one map in" in result.stderr
    assert "2 arrays: a, b" in call("--target-map", tmp_path / "two.safetensors").stderr
    assert "none that Pillow knows" in call("--target-map", tmp_path / "bad.png").stderr


def test_a_target_image_of_another_size_is_refused(call, tmp_path):
    Image.new("RGB", (50, 50), "red").save(tmp_path / "large.png")
    result = call("--target-image", tmp_path / "large.png", "--model", "attackmodule:whole")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert "expected a target image of the input's size (36, 40)" in result.stderr or "mat1" in result.stderr


def test_a_directory_with_something_else_is_refused(call, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "figure.png").write_bytes(b"mine")
    result = call("--target-text", "a")
    assert result.exit_code == 2 and "got no result.json of one" in result.stderr
    (out / "notes.txt").write_text("mine")
    result = call("--target-text", "a")
    assert result.exit_code == 2 and "with notes.txt" in result.stderr
    assert (out / "figure.png").read_bytes() == b"mine"


def test_a_full_disk_leaves_no_result(call, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("veridical.cli.attack_files.write_arrays", full)
    result = call("--target-text", "a", steps=2)
    assert result.exit_code == 2 and "No space left" in result.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == {"format": 1, "finished": False}
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call("--target-text", "a", steps=2).exit_code == 0 and record(tmp_path)["finished"]


def test_it_is_listed(call):
    shown = CliRunner().invoke(app, ["attack", "--help"])
    assert shown.exit_code == 0 and "--target-text" in shown.stdout and "130" in shown.stdout
    assert "attack" in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.slow
def test_the_demo_network_is_made_to_show_a_text(tmp_path):
    arguments = ["attack", "--target-text", "this explanation was manipulated", "--method", "gradient",
                 "--steps", "12", "--lr", "0.004", "--out", str(tmp_path / "out")]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = record(tmp_path)
    assert found["image"]["name"] == "chelsea.png" and "cat" in found["after"]["output"]["label_before"]
    assert found["after"]["output"]["class_kept"]
    before, after = (found[when]["to_target"]["pcc"] for when in ("before", "after"))
    assert before < 0.1 and after > before + 0.2
    assert found["stored"]["png-16"]["to_target"]["pcc"] == pytest.approx(after, abs=0.01)
