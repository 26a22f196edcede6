"""Denormal numbers are flushed where it is asked for, and only there."""

import pytest
import torch

from veridical.tensors import flushed_denormals


def flushes() -> bool:
    return bool(torch.tensor(2.0**-126, dtype=torch.float32) * 0.5 == 0)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_inside_and_as_before_afterwards(before: bool) -> None:
    torch.set_flush_denormal(before)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes() is before
        with pytest.raises(KeyboardInterrupt), flushed_denormals():
            raise KeyboardInterrupt
        assert flushes() is before
    finally:
        torch.set_flush_denormal(False)
