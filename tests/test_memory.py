"""Loops do not grow. Run in a process of its own: the type checker of these tests keeps what it compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import tiny, torch, clew

torch.set_num_threads(1)
model, x = tiny.build("timm_token").float(), tiny.images((32, 32)).float()
methods = ["beyond_intuition_head", "generic_attribution", "saliency", "beyond_intuition_token", "raw_attention"]

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def tensors():
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

for call in range(1, 1001):
    clew.explain(model, x, method=methods[call % len(methods)], n_steps=2) if call % 5 in (0, 3) else clew.explain(
        model, x, method=methods[call % len(methods)]
    )
    if call == 200:
        before, alive = resident(), tensors()
print(resident() - before, tensors() - alive)
"""


def test_a_loop_of_a_thousand_calls_keeps_nothing():
    if not Path("/proc/self/statm").exists():
        import pytest

        pytest.skip("resident memory is read from /proc")
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    grown, tensors = (int(n) for n in run.stdout.split())
    assert grown < 10_000_000
    assert tensors <= 0
