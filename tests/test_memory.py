"""Loops do not grow. Run in a process of its own: the type checker of these tests keeps what it compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
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


PEAK = """
import sys
import timm, torch, clew

torch.set_num_threads(1)
model = timm.models.vision_transformer.VisionTransformer(
    img_size=512, patch_size=8, embed_dim=96, depth=6, num_heads=4, num_classes=5
).eval().requires_grad_(False)
x = torch.randn(1, 3, 512, 512)
with torch.no_grad():
    model(x[:, :, :, :])
clew.explain(model, x, method="raw_attention")

def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = kilobytes("VmRSS")
if sys.argv[1] == "plain":
    x.requires_grad_()
    torch.autograd.grad(model(x)[:, 0].sum(), x)
else:
    clew.explain(model, x, method=sys.argv[1], target=0, checks="off")
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp", "pa_lrp"])
def test_lrp_of_4096_tokens_needs_no_more_memory_than_a_plain_backward_pass(method):
    def measured(what):
        # Large blocks go back to the system at once, so that the resident peak is that of live tensors.
        exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PEAK, what]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **exact})
        return int(run.stdout)

    plain = measured("plain")
    assert plain > 60_000  # kilobytes: far above noise, and below one map of 4,097 x 4,097 in each head
    assert measured(method) < 1.2 * plain
