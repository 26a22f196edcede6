"""Alignment along a training is that of the network at each step."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import veridical as vd
from veridical.auditing.following import follow
from veridical.manifold import orthonormal_rows
from veridical.training import Snapshots, TrainingSettings, log_steps, train_classifier

SETTINGS = TrainingSettings(epochs=3, batch=8, lr=0.1)
STEPS = (0, 1, 3, 9)


def fresh():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def labeled():
    labels = torch.arange(24) % 2
    noise = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise[:, 0, 0] += 2.0 * labels[:, None] - 1
    return noise, labels


def measure(network):
    rows = torch.eye(16, dtype=torch.float64)[:4].expand(6, -1, -1)
    basis = orthonormal_rows(rows, 1e-12)[0].unflatten(2, (1, 4, 4))
    return vd.measure_alignment(network, labeled()[0][:6], basis, ["gradient", "gradient-x-input"])


def test_each_step_is_measured_and_the_training_is_the_same(tmp_path):
    network, plain, calls = fresh(), fresh(), []
    found = follow(Snapshots(tmp_path, network, STEPS, calls.append), labeled(), SETTINGS, measure)
    assert found.steps == STEPS and len(found.alignments) == 4 and len(calls) == 9
    torch.testing.assert_close(found.alignments[0].fractions, measure(fresh().eval()).fractions)
    train_classifier(plain, *labeled(), replace(SETTINGS, epochs=1))
    torch.testing.assert_close(found.alignments[2].fractions, measure(plain).fractions)
    train_classifier(plain := fresh(), *labeled(), SETTINGS)
    torch.testing.assert_close(found.alignments[3].fractions, measure(plain).fractions)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    assert not network.training


def test_intervals_and_table(tmp_path):
    found = follow(Snapshots(tmp_path, fresh(), STEPS), labeled(), SETTINGS, measure)
    means = [one.mean for one in found.summaries("gradient")]
    assert all(one.low <= one.estimate <= one.high for one in means)
    # The classes differ in the first four pixels, which span the tangent space: the network learns them.
    assert means[-1].estimate > means[0].estimate
    change = found.change("gradient")
    assert change[0].estimate == 0
    assert change[-1].estimate == pytest.approx(means[-1].estimate - means[0].estimate)
    rows = found.table().splitlines()
    assert rows[0] == "| step | `gradient` | `gradient-x-input` | random |" and len(rows) == 2 + len(STEPS)
    assert rows[-1].startswith(f"| 9 | {means[-1].estimate:.4f} (")
    with pytest.raises(ValueError, match=r"since in 0\.\.3, got 4"):
        found.change("gradient", 4)
    with pytest.raises(ValueError, match="expected a measured method"):
        found.summaries("smoothgrad")


def test_an_interrupted_run_goes_on_and_a_finished_one_only_measures(tmp_path):
    def stop(moment):
        if moment.epoch == 1 and moment.step == 2:
            raise KeyboardInterrupt

    whole = follow(Snapshots(tmp_path / "whole", fresh(), STEPS), labeled(), SETTINGS, measure)
    with pytest.raises(KeyboardInterrupt):
        follow(Snapshots(tmp_path / "parts", fresh(), STEPS, stop), labeled(), SETTINGS, measure)
    parts = follow(Snapshots(tmp_path / "parts", fresh(), STEPS), labeled(), SETTINGS, measure)
    again = follow(Snapshots(tmp_path / "parts", fresh(), STEPS), labeled(), SETTINGS, measure)
    assert parts.training.resumed == 1 and again.training.resumed == 3
    for one in (parts, again):
        assert all(
            torch.equal(a.fractions, b.fractions)
            for a, b in zip(one.alignments, whole.alignments, strict=True)
        )


def test_wrong_steps_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"steps in 0\.\.9, got 10"):
        follow(Snapshots(tmp_path, fresh(), (0, 10)), labeled(), SETTINGS, measure)
    follow(Snapshots(tmp_path, fresh(), log_steps(9, 3)), labeled(), SETTINGS, measure)
    with pytest.raises(ValueError, match="expected the network after step 4"):
        follow(Snapshots(tmp_path, fresh(), (4,)), labeled(), SETTINGS, measure)
    with pytest.raises(ValueError, match="lr 0.2 instead of 0.1"):
        follow(Snapshots(tmp_path, fresh(), (9,)), labeled(), replace(SETTINGS, lr=0.2), measure)
