"A user's own strategy, annotator and model in one study, in spawned workers that have never heard of them."
import subprocess
import sys

SCRIPT = '''
import sys
from math import prod
from pathlib import Path

import numpy as np
from torch import nn
from torch.nn.utils import skip_init

from al_cifar.loop import TOY, outcome
from al_cifar.model.learner import MODELS, Learner
from al_cifar.oracle import ORACLES, UniformNoise
from al_cifar.strategies import register, top_k
from al_cifar.study import grid, process_pool, read_run, run_study

def register_mine():  # called in this process alone: workers import this file and do not call it
    @register("my_margin", needs=("probs",))
    def my_margin(view, k, g, *, sign=1.0):
        second, best = np.sort(view.probs, axis=1)[:, -2:].T
        return top_k(sign*(second - best), view.priority, k)

    @ORACLES.register("my_next")
    class NextClass(UniformNoise):
        def wrong(self, index, v): return (self.y[index] + 1) % self.n_classes

    @MODELS.register("my_layers")
    class Layers(Learner):
        width = 16
        def __init__(self, n_classes, shape, members=1):
            super().__init__(n_classes, shape, members)
            self.hidden = skip_init(nn.Linear, prod(shape), self.width)
            self.classify = skip_init(nn.Linear, self.width, n_classes)
        def embedding(self, x): return self.hidden(x.flatten(1)).relu()

def outcomes(paths): return {path.name: outcome(read_run(path)[1]) for path in paths}

if __name__ == "__main__":
    register_mine()
    configs = grid(TOY, strategy=["my_margin(sign=-1)", "random"], oracle=["my_next"], model=["my_layers"])
    here = run_study(configs, Path(sys.argv[1])/"here", progress=False)
    with process_pool(2) as pool:
        there = run_study(configs, Path(sys.argv[1])/"there", progress=False, executor=pool)
    assert outcomes(there) == outcomes(here)
    print(*(",".join(read_run(path)[0]["sources"]) for path in there))
    print(*(path.name for path in there), sep="\\n")
'''


def test_own_components_travel_to_workers(tmp_path):
    script = tmp_path/"mine.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    sources, first, second = done.stdout.strip().splitlines()
    assert sources == "strategy,oracle,model oracle,model"
    assert first.startswith("my_margin-sign--1.0-e0.1-r0-") and second.startswith("random-e0.1-r0-")
