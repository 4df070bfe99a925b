"Caches that repair themselves, are private and leave no litter; components known by what their code does."
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from al_cifar.data.folder import load_folder
from al_cifar.data.images import ARRAYS
from al_cifar.data.saved import read_data, save_data, user_cache


def toy_folder(root, shade=0, suffix="png"):
    "Three training images and one test image of 8x8 for each of two classes."
    for split, n in ("train", 3), ("test", 1):
        for c, name in enumerate(("dark", "light")):
            (root/split/name).mkdir(parents=True)
            for i in range(n): Image.new("RGB", (8, 8), (shade + 99*c + i,) * 3).save(root/split/name/f"{i}.{suffix}")
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    return user_cache()


def test_a_swapped_entry_is_refused(tmp_path, cache):
    one, other = toy_folder(tmp_path/"one"), toy_folder(tmp_path/"other", 7)
    places = [Path(load_folder(root).source[1]) for root in (one, other)]
    prints = [load_folder(root).fingerprint for root in (one, other)]
    places[0].rename(tmp_path/"aside")
    places[1].rename(places[0])
    assert load_folder(one).fingerprint == prints[0] != prints[1]
    assert load_folder(other).fingerprint == prints[1]
    assert os.listdir(cache) and read_data(places[0]).fingerprint == prints[0]  # written anew


def test_the_cache_is_private(tmp_path, cache):
    load_folder(toy_folder(tmp_path/"mine"))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def dead_process():
    "The number of a process that has ended."
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def litter(cache, name, hours):
    "A temporary folder as a writer leaves it, last touched so many hours ago."
    folder = cache/name
    (folder/"new").mkdir(parents=True)
    (folder/"new"/"x_train.npy").write_bytes(b"half")
    for path in (folder/"new"/"x_train.npy", folder/"new", folder):
        os.utime(path, (time.time() - 3600*hours,) * 2)
    return folder


def test_litter_of_the_dead_is_swept_and_the_living_write_on(tmp_path, cache):
    dead, key = dead_process(), "0" * 32
    swept = [litter(cache, f".folder-{key}-pid{dead}-abcdefgh", 5), litter(cache, f".folder-{key}-abcd_fg8", 5)]
    kept = [litter(cache, f".folder-{key}-pid{os.getppid()}-abcdefgh", 5),  # its writer lives
            litter(cache, f".folder-{key}-pid{dead}-bbbbbbbb", 0),          # perhaps a process of another machine
            litter(cache, f".folder-{key}-bbbbbbbb", 0),
            litter(cache, ".users-settings", 5), litter(cache, "folder", 5)]  # not ours
    load_folder(toy_folder(tmp_path/"mine"))
    assert not any(folder.exists() for folder in swept)
    assert all((folder/"new"/"x_train.npy").exists() for folder in kept)


def test_a_writer_that_is_killed_leaves_nothing_for_ever(tmp_path, cache):
    code = ("import os, signal; from unittest.mock import patch; from al_cifar.data import saved, load_data\n"
            "with patch.object(saved, '_move_in', lambda *a: os.kill(os.getpid(), signal.SIGKILL)):\n"
            f"    saved.save_data(load_data('digits'), {str(cache/'entry')!r})")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    left, = cache.iterdir()
    for path in (*left.rglob("*"), left): os.utime(path, (time.time() - 9000,) * 2)
    load_folder(toy_folder(tmp_path/"mine"))
    assert not left.exists()


def flips_survived(root, places, rng, n):
    "Flip `n` single bits, one after the other; how many were harmless, noticed, and not repaired: {word: count}."
    want, path = load_folder(root), Path(load_folder(root).source[1])
    facts = lambda data: (data.name, data.fingerprint, data.classes, data.pad, data.flip)
    counts = {"harmless": 0, "noticed": 0, "wrong": 0, "not repaired": 0}
    for _ in range(n):
        file = path/places[rng.integers(len(places))]
        content = bytearray(file.read_bytes())
        at = rng.integers(min(len(content), 600))  # all of the header and some of the data
        content[at] ^= 1 << rng.integers(8)
        fresh = file.with_suffix(".flipped")
        fresh.write_bytes(content)
        os.replace(fresh, file)
        try: counts["harmless" if facts(read_data(path)) == facts(want) else "wrong"] += 1
        except ValueError: counts["noticed"] += 1
        except Exception: pass  # the next lines count it
        try: repaired = facts(load_folder(root)) == facts(want) == facts(read_data(path))
        except Exception: repaired = False
        if repaired: continue
        counts["not repaired"] += 1
        for file in path.iterdir(): file.unlink()
    return counts


FILES = [*(f"{name}.npy" for name in ARRAYS), "meta.json"]


@pytest.mark.parametrize("n", [60, pytest.param(4000, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_noticed_and_repaired(tmp_path, cache, n):
    counts = flips_survived(toy_folder(tmp_path/"mine"), FILES, np.random.default_rng(n), n)
    print(f"{n} bit flips: {counts}")
    assert counts["wrong"] == counts["not repaired"] == 0 and counts["noticed"] + counts["harmless"] == n


def test_damaged_arrays_of_a_study_are_repaired_or_named(tmp_path):
    from al_cifar.data.sources import load_data, load_source
    digits = load_data("digits")
    path = save_data(digits, tmp_path/"data")
    header = (path/"y_test.npy").read_bytes()
    for damaged in header.replace(b"{", b"(", 1), header.replace(b"'descr'", b"'descr\\", 1), header[:90]:
        (path/"y_test.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"): load_source(("arrays", str(path)))
        save_data(digits, path)  # what a study does before it sends tasks
        assert load_source(("arrays", str(path))).fingerprint == digits.fingerprint
        from al_cifar.data import sources
        sources._open_source.cache_clear()


def decode_error(path):
    with pytest.raises(ValueError, match="cannot read the image .*" + path.name) as error: load_folder(path.parents[2])
    return str(error.value)


def test_an_eps_named_png_starts_no_interpreter(tmp_path, cache, monkeypatch):
    from PIL import EpsImagePlugin
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kw: started.append(args))
    image = toy_folder(tmp_path/"mine")/"train"/"dark"/"0.png"
    image.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    decode_error(image)
    assert not started


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, cache):
    image = toy_folder(tmp_path/"mine")/"train"/"dark"/"0.png"
    Image.new("1", (9000, 9000)).save(image)  # 10 kB that would become 243 MB
    assert "9000x9000" in decode_error(image)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "jp2", "png", "ppm", "tga", "tif", "webp"])
def test_a_truncated_file_is_one_error_that_names_it(tmp_path, cache, suffix):
    root = toy_folder(tmp_path/"mine", suffix=suffix)
    assert len(load_folder(root).x_train) == 6
    image = root/"train"/"dark"/f"0.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    content = image.read_bytes()
    for n in 0, 1, len(content)//2:
        image.write_bytes(content[:n])
        decode_error(image)


# Components known by what their code does

CASES = {  # what changes: code with a place for it, and the expression that is identified
    "closure": ("def make(n):\n    return lambda x: x + n\nmine = make(VALUE)"),
    "default": ("def mine(x, n=VALUE): return x + n"),
    "keyword default": ("def mine(x, *, n=VALUE): return x + n"),
    "constant": ("def mine(x): return x + VALUE"),
    "two lambdas on a line": ("mine = [lambda x: x + 1, lambda x: x + 2][VALUE - 1]"),
    "global": ("N = VALUE\ndef mine(x): return x + N"),
    "helper": ("def helper(x): return x + VALUE\ndef mine(x): return helper(x)"),
    "helper of a helper": ("def a(x): return VALUE\ndef b(x): return a(x)\nmine = lambda x: b(x)"),
    "helper in a comprehension": ("def a(x): return VALUE\ndef mine(x): return [a(i) for i in x]"),
    "recursion": ("def mine(n): return other(n - 1)\ndef other(n): return mine(n) if n else VALUE"),
    "method": ("class mine:\n    def __call__(self, x): return self.f(x)\n    def f(self, x): return x + VALUE"),
    "private attribute": ("class mine:\n    _n = VALUE\n    def __call__(self, x): return x + self._n"),
    "array attribute": ("import numpy as np\nclass mine:\n    n = np.array([VALUE])"),
    "base": ("class Base:\n    def f(self): return VALUE\nclass mine(Base): pass"),
    "property": ("class mine:\n    @property\n    def f(self): return VALUE"),
    "setter": ("class mine:\n    f = property(lambda self: 1, lambda self, v: setattr(self, 'v', v + VALUE))"),
    "static method": ("class mine:\n    @staticmethod\n    def f(): return VALUE"),
    "class method": ("class mine:\n    @classmethod\n    def f(cls): return VALUE"),
    "cached property": ("from functools import cached_property\nclass mine:\n    @cached_property\n"
                        "    def f(self): return VALUE"),
    "slots": ("class Own:\n    __slots__ = ('n',)\n    def __call__(self): return self.n\nmine = Own()\nmine.n = VALUE"),
    "dataclass field": ("from dataclasses import dataclass\n@dataclass\nclass mine:\n    a: int = VALUE"),
    "dataclass factory": ("from dataclasses import dataclass, field\n@dataclass\nclass mine:\n"
                          "    a: list = field(default_factory=lambda: [VALUE])"),
    "dataclass annotator": ("from dataclasses import dataclass\nfrom al_cifar.oracle import UniformNoise\n"
                            "@dataclass(frozen=True, eq=False)\nclass mine(UniformNoise):\n    step: int = 1\n"
                            "    def wrong(self, index, v): return (self.y[index] + VALUE) % self.n_classes"),
    "partial": ("from functools import partial\ndef f(x, n): return x + n\nmine = partial(f, n=VALUE)"),
    "partial of changed": ("from functools import partial\ndef f(x, n): return x + n + VALUE\nmine = partial(f, n=1)"),
    "callable object": ("class Own:\n    def __init__(self, n): self.n = n\n    def __call__(self, x): return x + self.n\n"
                        "mine = Own(VALUE)"),
    "bound method": ("class Own:\n    def __init__(self, n): self.n = n\n    def f(self): return self.n\n"
                     "mine = Own(VALUE).f"),
    "array": ("import numpy as np\nW = np.arange(9.)\nW[3] = VALUE\ndef mine(x): return W @ x"),
    "tensor": ("import torch\nW = torch.ones(9, dtype=torch.bfloat16)\nW[3] = VALUE\ndef mine(x): return W @ x"),
    "dict": ("D = {'a': {'b': [VALUE]}}\ndef mine(x): return D[x]"),
    "set": ("S = {'a', 'b', (1, VALUE)}\ndef mine(x): return x in S"),
    "set in the code": ("def mine(x): return x in {'a', 'b', 'c', VALUE}"),
    "decorated": ("from functools import wraps\ndef twice(f):\n    @wraps(f)\n    def g(x): return f(x) * VALUE\n"
                  "    return g\n@twice\ndef mine(x): return x"),
    "decorator's function": ("from functools import wraps\ndef twice(f):\n    @wraps(f)\n    def g(x): return f(x)\n"
                             "    return g\n@twice\ndef mine(x): return x + VALUE"),
    "library's decorator": ("import torch\n@torch.no_grad()\ndef mine(x): return x + VALUE"),
    "lru_cache": ("from functools import lru_cache\n@lru_cache\ndef f(x): return VALUE\ndef mine(x): return f(x)"),
    "estimator": ("from sklearn.linear_model import LogisticRegression\nE = LogisticRegression(C=VALUE)\n"
                  "def mine(x): return E.fit(x)"),
    "library function": ("import numpy as np\nf = [np.sin, np.cos][VALUE - 1]\ndef mine(x): return f(x)"),
    "caught error": ("def mine(x):\n    try: return 1/x\n    except [ValueError, OSError][VALUE - 1]: return 0"),
    "enum": ("from enum import Enum\nclass E(Enum):\n    A = VALUE\ndef mine(x): return E.A"),
    "named tuple": ("from typing import NamedTuple\nclass P(NamedTuple):\n    a: int = VALUE\ndef mine(x): return P()"),
    "regular expression": ("import re\nR = re.compile(f'a{VALUE}')\ndef mine(x): return R.match(x)"),
}
SAME = "'''a docstring'''\n# a comment\n\n\n"  # in front of the code: other line numbers


def run_python(folder, code, seed):
    "What a new process prints that executes `code`."
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    "{way: identities of all cases}: both values imported, then the first in other processes and in other ways."
    folder = tmp_path_factory.mktemp("identities")
    for i, code in enumerate(CASES.values()):
        for value in 1, 2: (folder/f"case{i}_{value}.py").write_text(code.replace("VALUE", str(value)))
        (folder/f"moved{i}_1.py").write_text(SAME + code.replace("VALUE", "1"))
    head = "from al_cifar.components import code_hash\n"
    one = lambda name, value: head + "".join(
        f"import {name}{i}_{value} as m\nprint(code_hash(m.mine))\n" for i in range(len(CASES)))
    executed = head + f"for i in range({len(CASES)}):\n    space = {{'__name__': '__main__'}}\n" \
        "    exec(open(f'case{i}_1.py').read(), space)\n    print(code_hash(space['mine']))\n"
    cells = head + "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n" \
        f"for i in range({len(CASES)}):\n    shell.run_cell(open(f'case{{i}}_1.py').read())\n" \
        "    print(code_hash(shell.user_ns['mine']))\n"
    return {"first": run_python(folder, one("case", 1), 1), "changed": run_python(folder, one("case", 2), 1),
            "other seed": run_python(folder, one("case", 1), 77), "moved": run_python(folder, one("moved", 1), 3),
            "main": run_python(folder, executed, 4), "notebook": run_python(folder, cells, 5)}


@pytest.mark.parametrize("case", CASES)
def test_identity_follows_the_code_and_nothing_else(identities, case):
    at = list(CASES).index(case)
    found = {way: hashes[at] for way, hashes in identities.items()}
    assert found.pop("changed") != found["first"]
    assert set(found.values()) == {found["first"]}, found


@pytest.mark.parametrize("state", ["open(__file__)", "__import__('threading').Lock()", "(x for x in 'ab')", "iter('ab')",
                                   "np.random.default_rng(0)", "__import__('torch').Generator()",
                                   "memoryview(b'ab')", "__import__('socket').socket()"])
def test_what_has_a_state_asks_for_a_version(state):
    from al_cifar.components import Register, own_code
    register, value = Register("fruit"), eval(state)
    register.register("apple")(lambda day: value)
    with pytest.raises(ValueError, match=r"give register\(\.\.\.\) a version="): own_code(register, "apple")
    register.register("apple", version="1")(lambda day: value)
    assert len(own_code(register, "apple")) == 16


def test_run_ids_of_the_packages_own_stay():
    from al_cifar.loop import TOY
    from al_cifar.loop.config import own_sources
    assert own_sources(TOY) == {}


def test_changed_annotator_does_not_return_old_results(tmp_path):
    from al_cifar.data import load_data
    from al_cifar.loop import TOY, outcome
    from al_cifar.oracle import ORACLES, UniformNoise
    from al_cifar.study import grid, read_run, run_study
    def annotator(step):
        class Next(UniformNoise):
            def wrong(self, index, v): return (self.y[index] + step) % self.n_classes
        ORACLES.register("my_next_of_step")(Next)
    paths = []
    try:
        for step in 1, 3, 1:
            annotator(step)
            config, = grid(TOY, oracle=["my_next_of_step"], strategy=["random"], budget=[40], epochs=[1])
            paths += run_study([config], tmp_path, progress=False)
    finally: ORACLES.components.pop("my_next_of_step", None)
    assert paths[0] == paths[2] != paths[1]
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    first, second = (outcome(read_run(path)[1]) for path in paths[:2])
    assert first != second


def test_partials_travel_by_value(tmp_path):
    (tmp_path/"only_here.py").write_text("N = 40\ndef add(x, n): return x + n + N\n")
    code = ("import sys; from functools import partial; import only_here; from al_cifar.components import by_value\n"
            "sys.stdout.buffer.write(by_value(partial(partial(only_here.add, n=1))))")
    sent = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert sent.returncode == 0, sent.stderr
    import pickle
    assert pickle.loads(sent.stdout)(1) == 42
