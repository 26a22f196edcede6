"""`veridical attack` on methods that need patterns, on methods without a derivative, and Ctrl-C for real."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import veridical as vd
from cli.attacking import record
from veridical.cli.attack_files import FILES
from veridical.models import load_model


@pytest.fixture
def folder(tmp_path):
    """Twenty images to fit patterns on: more than one batch."""
    found = tmp_path / "train"
    found.mkdir()
    generator = np.random.default_rng(2)
    for index in range(20):
        small = generator.integers(0, 255, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((40, 36)).save(found / f"{index}.png")
    (found / "notes.txt").write_text("no image")
    return found


@pytest.fixture
def never_loaded(monkeypatch):
    def never(*_, **__):
        raise RuntimeError("loaded")

    monkeypatch.setattr("veridical.cli.options.load_model", never)


def names(tmp_path):
    return {file.name for file in (tmp_path / "out").iterdir()}


def test_patterns_are_fitted_used_and_kept(call, tmp_path, folder):
    result = call(
        "--target-text", "no", "--method", "pattern-attribution", "--fit-patterns", folder, steps=12
    )
    assert result.exit_code == 0, result.output
    assert "skipped notes.txt" in result.stderr and "fitting patterns" in result.stderr
    found = record(tmp_path)
    patterns = vd.Patterns.load(tmp_path / "out" / "patterns.safetensors")
    assert found["method"]["patterns"] == {
        "source": "fitted", "name": "train", "sha256": patterns.digest, "images": 20,
        "estimator": "positive", "means": "mixed", "fold_batch_norm": True,
    }  # fmt: skip
    assert patterns.images == 20 and patterns.digest[:12] in found["method"]["options"]
    assert names(tmp_path) == {*FILES, "patterns.safetensors"} == set(found["files"])
    # the map is that of the method with these patterns
    loaded = load_model("attackmodule:build")
    images, maps = (load_file(tmp_path / "out" / f"{name}.safetensors") for name in ("images", "maps"))
    explain = vd.method("pattern-attribution", patterns=patterns)
    expected = vd.saliency(explain(loaded.module, torch.from_numpy(images["manipulated"])))
    assert np.allclose(maps["manipulated"], expected.numpy(), atol=1e-7)
    assert found["after"]["to_target"]["pcc"] > found["before"]["to_target"]["pcc"]
    # and with the patterns of the file it is the same attack
    kept = tmp_path / "out" / "patterns.safetensors"
    again = call("--target-text", "no", "--method", "pattern-attribution", "--patterns", kept, steps=12)
    assert again.exit_code == 0, again.output
    second = record(tmp_path)
    assert second["after"] == found["after"] and second["method"]["patterns"]["source"] == "file"
    assert set(second["files"]) == set(FILES) and kept.is_file()


def test_a_defended_method_has_its_patterns_inside(call, tmp_path, folder, undrawn):
    arguments = ("--target-image", tmp_path / "two.png", "--method", "patternnet", "--fit-patterns", folder)
    result = call(*arguments, "--smooth-beta", 2, "--smoothgrad", 2, steps=2)
    assert result.exit_code == 0, result.output
    options = record(tmp_path)["method"]["options"]
    assert "NoiseAveraged" in options and "BetaSmoothed" in options and "Patterns(positive" in options


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "patternnet"), "expected patterns for patternnet, got none; give --patterns FILE"),
        (("--method", "lrp-z", "--patterns", "x"), "got lrp-z; leave --patterns out"),
        (("--fit-patterns", "x"), "got gradient; leave --fit-patterns out"),
        (
            ("--method", "attackmodule:fixed", "--patterns", "x"),
            "got attackmodule:fixed; leave --patterns out",
        ),
        (
            ("--method", "patternnet", "--patterns", "x", "--fit-patterns", "y"),
            "expected one source of patterns",
        ),
        (("--method", "patternnet", "--patterns", "/nowhere.safetensors"), "got /nowhere.safetensors"),
        (("--method", "patternnet", "--patterns", __file__), "expected patterns that Patterns.save wrote"),
        (("--method", "patternnet", "--fit-patterns", "/nowhere"), "got /nowhere"),
        (("--method", "patternnet", "--fit-patterns", __file__), "got the file"),
        (("--gradient", "exakt"), "expected gradient to be one of ('exact', 'estimated'), got 'exakt'"),
        (("--method", "attackmodule:still"), "on the command line --gradient estimated"),
        (
            ("--method", "attackmodule:still", "--smoothgrad", 2),
            "expected a differentiable method, got still",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(more, message, call, tmp_path, never_loaded):
    result = call("--target-text", "a", *more)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (tmp_path / "out").exists()


def test_patterns_of_another_network_are_refused_before_the_optimization(call, tmp_path):
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    vd.fit_patterns(other, torch.rand(4, 3, 8, 8)).save(tmp_path / "other.safetensors")
    arguments = ("--method", "patternnet", "--patterns", tmp_path / "other.safetensors")
    result = call("--target-text", "a", *arguments)
    assert result.exit_code == 2 and "error: expected patterns" in result.stderr, result.output
    assert not (tmp_path / "out").exists()


def test_training_images_of_different_sizes_are_refused(call, tmp_path, folder):
    Image.new("RGB", (60, 50)).save(folder / "3.png")
    arguments = ("--method", "patternnet", "--fit-patterns", folder, "--model", "attackmodule:whole")
    result = call("--target-text", "a", *arguments)
    assert result.exit_code == 2 and "expected images of one size" in result.stderr, result.output


@pytest.mark.parametrize("method", ["still", "silent"])
def test_a_method_without_a_derivative_is_attacked_by_calls_and_everything_says_so(
    method, call, tmp_path, undrawn
):
    arguments = ("--target-text", "no", "--method", f"attackmodule:{method}", "--gradient", "estimated")
    result = call(*arguments, steps=11)
    assert result.exit_code == 0, result.output
    found = record(tmp_path)
    assert found["gradient"] == {"kind": "estimated", "calls": 11 * 2 * 16}
    assert (
        found["settings"]["gradient"] == "estimated" and "weaker attack" in found["conventions"]["gradient"]
    )
    assert f"the gradient was estimated from {11 * 2 * 16} maps" in result.stdout
    assert "does not show that the map is robust" in result.stdout
    assert found["after"]["to_target"]["pcc"] >= found["before"]["to_target"]["pcc"]


def test_the_figure_says_that_the_gradient_was_estimated(call, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "veridical.cli.attack_files.attack_pictures", lambda one: shown.append(one.title) or {}
    )
    call("--target-text", "no", "--method", "attackmodule:still", "--gradient", "estimated", steps=1)
    call("--target-text", "no", steps=1)
    assert "gradient estimated" in shown[0] and "estimated" not in shown[1]


def test_an_exact_gradient_is_recorded_and_not_talked_about(call, tmp_path, undrawn):
    result = call("--target-text", "no", steps=2)
    assert record(tmp_path)["gradient"] == {"kind": "exact", "calls": 2}
    assert "gradient was" not in result.stdout


def test_a_callable_that_hides_that_it_has_no_derivative_is_refused_at_the_first_step(call, tmp_path):
    result = call("--target-text", "no", "--method", "attackmodule:silent")
    assert result.exit_code == 2, result.output
    assert "no requires_grad" in result.stderr and "gradient='estimated'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.peer
def test_a_method_of_captum_by_its_place(call, tmp_path, monkeypatch, undrawn):
    pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    text = "import veridical as vd\nfrom captum.attr import Saliency\nexplain = vd.from_captum(Saliency)\n"
    (tmp_path / "captummethod.py").write_text(text)
    monkeypatch.delitem(sys.modules, "captummethod", raising=False)
    arguments = ("--target-text", "no", "--method", "captummethod:explain")
    refused = call(*arguments, steps=1)
    assert refused.exit_code == 2 and "--gradient estimated" in refused.stderr, refused.output
    found = call(*arguments, "--gradient", "estimated", steps=1)
    assert found.exit_code == 0 and "the gradient was estimated from 32 maps" in found.stdout, found.output


def interrupts(monkeypatch, name):
    """Ctrl-C, as the signal itself, when that function is called."""
    import veridical.cli.attack_files as files

    whole = getattr(files, name)

    def pressed(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return whole(*arguments, **options)

    monkeypatch.setattr(files, name, pressed)


def test_an_interrupt_while_the_files_are_written_waits_for_them(call, tmp_path, monkeypatch, undrawn):
    interrupts(monkeypatch, "write_arrays")
    result = call("--target-text", "no", steps=2)
    assert result.exit_code == 0, result.output
    assert record(tmp_path)["finished"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_after_the_optimization_leaves_an_earlier_attack_as_it_was(call, tmp_path, monkeypatch):
    call("--target-text", "no", steps=2)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path)}
    interrupts(monkeypatch, "attack_pictures")
    result = call("--target-text", "yes", steps=2)
    assert result.exit_code == 130 and "nothing was written" in result.stderr, result.output
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path)}


def test_an_interrupt_during_the_fit_writes_nothing(call, tmp_path, folder, monkeypatch):
    import veridical.cli.attack_method as attack_method

    fit = attack_method.fit_patterns

    def pressed(model, batches, progress):
        return fit(model, batches, progress=lambda seen: os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(attack_method, "fit_patterns", pressed)
    result = call("--target-text", "no", "--method", "patternnet", "--fit-patterns", folder)
    assert result.exit_code == 130 and "nothing was written" in result.stderr, result.output
    assert not (tmp_path / "out").exists()


def test_ctrl_c_in_a_process_of_its_own_keeps_the_best_iterate(call, tmp_path):
    command = "from veridical.cli.main import main; main()"
    arguments = ["attack", "--model", "attackmodule:slow", "--image", "one.png", "--target-text", "no",
                 "--steps", "1000000", "--lr", "0.01", "--out", "out"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    watch = threading.Timer(120, process.kill)
    watch.start()
    while process.poll() is None and not (tmp_path / "under-way").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate()
    watch.cancel()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "correlation " in errors
    found = record(tmp_path)
    assert found["interrupted"] and found["finished"] and found["kept_step"] % 10 == 0 < found["kept_step"]
    # Where Ctrl-C comes right after an iterate was kept, the history does not have it yet.
    assert found["after"]["to_target"]["pcc"] > max(one["pcc"] for one in found["history"]) - 1e-5
    assert names(tmp_path) == set(FILES)
    assert "interrupted: the best of the steps until then is kept" in told
