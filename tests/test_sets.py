"Crossings, regimes of the pool, folders and torchvision's data sets, deeper learners and a user's own."
import gzip
import hashlib
import io
import pickle
import socket
import struct
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat
from test_data import Server
from torch import nn
from torch.nn.utils import skip_init

from al_cifar.analysis.crossover import crossover
from al_cifar.data import download
from al_cifar.data.cifar10 import DataUnavailableError
from al_cifar.data.regimes import REGIMES, in_regime, of_images
from al_cifar.data.sources import load_data, load_source
from al_cifar.forms.errors import ExperimentError
from al_cifar.forms.experiment import expect, prepare
from al_cifar.forms.form import EXPERIMENT
from al_cifar.loop.config import TOY, Config
from al_cifar.loop.presets import usual_schedule
from al_cifar.loop.rounds import outcome, simulate
from al_cifar.model.learner import MODELS, Learner, draw_weights
from al_cifar.model.trial import check_model
from al_cifar.study.cohort import simulate_cohort
from al_cifar.study.records import read_run
from al_cifar.study.running import grid, run_study
from al_cifar.study.runs import run_id
from al_cifar.study.tasks import task_of, work
from al_cifar.study.workers import process_pool


def study(replications, seed, at=470, between=.004, within=0., rounds=8, slope=5e-5):
    "Two strategies whose true difference is slope times (n - at); `between` replications it is off by a constant."
    g = np.random.default_rng(seed)
    n = 100*np.arange(1, rounds + 1)
    off = between*g.standard_normal((replications, 1)) + within*g.standard_normal((replications, rounds))
    pair = {"random": np.full((replications, rounds), .5), "margin": .5 + slope*(n - at) + off}
    parts = [pd.DataFrame(dict(condition="0.0", strategy=name, replication=np.repeat(np.arange(replications), rounds),
                               n_labels=np.tile(n, replications), accuracy=accuracy.ravel()))
             for name, accuracy in pair.items()]
    return pd.concat(parts)


def test_crossing_of_straight_curves_is_found():
    row = crossover(study(10, 0, between=0), "margin").iloc[0]
    assert np.allclose([row.labels, row.ci_low, row.ci_high], 470)
    one = crossover(study(10, 0), "margin", g=np.random.default_rng(5))
    same = crossover(study(10, 0), "margin", g=np.random.default_rng(5))
    other = crossover(study(10, 0), "margin", g=np.random.default_rng(6))
    pd.testing.assert_frame_equal(one, same)
    assert one.ci_low[0] != other.ci_low[0] and one.labels[0] == other.labels[0]


def test_resampled_crossings_have_the_same_quantiles():
    "The limits of the percentile method are the quantiles of the crossings of resampled curves, done one by one."
    df, draws = study(12, 3), 4000
    table = df.pivot(index="replication", columns=["strategy", "n_labels"], values="accuracy")
    d, n = (table["margin"] - table["random"]).to_numpy(), np.array(table["margin"].columns)
    g, found = np.random.default_rng(0), []
    for _ in range(draws):
        mean = d[g.integers(12, size=12)].mean(0)
        found.append(np.interp(0, mean, n))  # the curves rise
    row = crossover(df, "margin", method="percentile", draws=draws).iloc[0]
    assert np.allclose([row.ci_low, row.ci_high], np.quantile(found, [.025, .975]), atol=8)


@pytest.mark.slow
@pytest.mark.parametrize("replications", [5, 20])
@pytest.mark.parametrize("within, most", [(0., .975), (.004, 1.)])
def test_coverage_of_the_interval(replications, within, most):
    studies, held, narrow = 600, 0, 0
    for seed in range(studies):
        df = study(replications, seed, within=within)
        rows = [crossover(df, "margin", method=method, draws=500, g=np.random.default_rng(seed)).iloc[0]
                for method in ("studentized", "percentile")]
        covers = [row.ci_low <= 470 <= row.ci_high for row in rows]
        held, narrow = held + covers[0], narrow + covers[1]
    print(f"{replications} replications, within {within}: {held/studies:.3f}, percentile {narrow/studies:.3f}")
    assert .95 - 4*(.95*.05/studies)**.5 < held/studies <= most
    assert narrow <= held


def save_images(root, n_train, n_test=2, classes=("cat", "dog"), seed=0):
    "A folder of grey noise images, `n_train` and `n_test` of each class; class by class darker."
    g = np.random.default_rng(seed)
    for split, n in ("train", n_train), ("test", n_test):
        for c, name in enumerate(classes):
            (root/split/name).mkdir(parents=True)
            for i in range(n):
                image = g.integers(0, 100, (8, 8), dtype=np.uint8) + np.uint8(100*c/len(classes))
                Image.fromarray(image).save(root/split/name/f"{i:04d}.png")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder of 390 images of two classes."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    return save_images(tmp_path/"mine", 195)


QUICK = dict(strategies="random", replications=1, epochs=1, epsilon=0., workers=1)


def test_a_small_folder_gets_a_schedule_that_fits(folder, tmp_path):
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="folder", data_root=str(folder), out_dir=str(tmp_path/"out")))
    config, = plan.configs
    assert (config.initial, config.batch, config.budget) == (9, 9, 180)
    first, *_ = expect(plan).splitlines()
    assert first.startswith("The pool is small, so initial=9, budget=180, batch=9")
    assert next(iter(simulate(config, plan.data)))["n_labels"] == 9


@pytest.mark.parametrize("said, schedule", [
    (dict(budget=60), (3, 3, 60)), (dict(budget=50, initial=10), (10, 2, 50)), (dict(batch=50), (50, 50, 195)),
    (dict(candidates=5), None), (dict(initial=200), (200, 9, 209)), (dict(budget=390, batch=390, initial=2), (2, 390, 390))])
def test_what_was_said_is_kept(folder, said, schedule):
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="folder", data_root=str(folder)) | said)
    config, = plan.configs
    assert {name: getattr(config, name) for name in said} == said
    if schedule: assert (config.initial, config.batch, config.budget) == schedule
    else: assert config.batch <= config.candidates
    expect(plan)


def test_too_much_said_is_still_an_error(folder):
    said = QUICK | dict(dataset="folder", data_root=str(folder))
    with pytest.raises(ExperimentError, match="budget must be at most 390"): expect(prepare(EXPERIMENT, said | dict(budget=2000)))
    with pytest.raises(ExperimentError, match="budget must be at least initial=50"): prepare(EXPERIMENT, said | dict(initial=50, budget=20))


def works(config, data, path):
    "Do a run as a worker does, from what is sent to it alone; the run file's header."
    task = task_of(config, data, path, path.with_suffix(".stop"))
    assert work(pickle.loads(pickle.dumps(task))) == {"state": "done"}
    return read_run(path)[0]


def test_flip_and_pad_reach_the_runs_and_their_workers(folder, tmp_path):
    said = QUICK | dict(dataset="folder", data_root=str(folder), budget=20, initial=10, batch=10)
    usual, still = (prepare(EXPERIMENT, said | facts) for facts in ({}, dict(flip="false", pad="0")))
    assert (usual.data.flip, usual.data.pad, still.data.flip, still.data.pad) == (True, 1, False, 0)
    head = works(still.configs[0], still.data, tmp_path/"a.jsonl")
    assert head["fingerprint"] == still.data.fingerprint != usual.data.fingerprint


SOME_REGIMES = ["full", "long_tail(ratio=5)", "keep_classes(classes=(3, 8))", "toy_thinned(step=3)"]


@pytest.fixture
def thinned():
    "A regime of a user's own; the function that registers it again."
    def thin(data, *, step=2): return of_images(data, np.arange(0, len(data.y_train), step))
    yield REGIMES.register("toy_thinned")(thin)
    del REGIMES.components["toy_thinned"]


@pytest.mark.parametrize("regime", SOME_REGIMES)
def test_a_regime_travels_to_a_worker(regime, thinned, tmp_path):
    digits = load_data("digits")
    config, data = replace(TOY, regime=regime, budget=20, epochs=1), in_regime(digits, regime)
    task = task_of(config, data, tmp_path/"a.jsonl", tmp_path/"stop")
    del REGIMES.components["toy_thinned"]  # as in a process that has never heard of it
    assert work(pickle.loads(pickle.dumps(task))) == {"state": "done"}
    head = read_run(tmp_path/"a.jsonl")[0]
    REGIMES.register("toy_thinned")(thinned)
    assert head["fingerprint"] == data.fingerprint and head["config"]["regime"] == REGIMES.spell(regime)
    assert list(head["sources"]) == ["regime"]*("thinned" in regime)


def test_the_default_regime_leaves_run_ids_as_they_are():
    digits = load_data("digits")
    assert run_id(TOY, digits) == "random-e0.1-r0-4f477ae87f4b1659"  # as before there were regimes
    config = replace(TOY, regime="long_tail(ratio=5)")
    assert run_id(config, in_regime(digits, config.regime)) != run_id(TOY, digits)


@pytest.mark.slow
def test_regimes_of_a_grid_in_processes(thinned, tmp_path):
    configs = grid(TOY, regime=SOME_REGIMES)
    here = run_study(configs, tmp_path/"here", progress=False)
    with process_pool(2) as pool: there = run_study(configs, tmp_path/"there", executor=pool, progress=False)
    for a, b in zip(here, there): assert (a.name, outcome(read_run(a)[1])) == (b.name, outcome(read_run(b)[1]))
    assert len({path.name for path in there}) == 4


def test_a_long_tail_without_enough_for_the_initial_set():
    tail = in_regime(load_data("digits"), "long_tail(ratio=50)")
    config = replace(TOY, regime="long_tail(ratio=50)", initial=50)
    with pytest.raises(ValueError, match="initial=50 needs 5 images of class 8, the data has 3"): simulate(config, tail)
    record = next(iter(simulate(replace(config, stratified=False), tail)))
    assert record["n_labels"] == 50 and record["class_counts"][0] > record["class_counts"][9]
    with pytest.raises(ValueError, match="regime 'long_tail"): simulate(config, load_data("digits"))


def test_the_paper_form_of_a_long_tail_scales_its_initial_set():
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="digits", regime="long_tail(ratio=50)"))
    assert plan.configs[0].initial <= 20 and "The pool is small" in expect(plan)


# Torchvision's sets, over a local server

PATHS = {"cifar100": ["cifar-100-python.tar.gz"], "svhn": ["train_32x32.mat", "test_32x32.mat"],
         "mnist": [f"MNIST/raw/{half}-{part}.gz" for half in ("train", "t10k") for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]}
PATHS["fashion_mnist"] = [path.replace("MNIST", "FashionMNIST") for path in PATHS["mnist"]]
SETS = pytest.mark.parametrize("name", PATHS)


def noise(*shape): return np.random.default_rng(shape[0]).integers(0, 256, shape, dtype=np.uint8)


def tiny_cifar100():
    fine = {"fine_label_names": [f"class {i}" for i in range(100)], "coarse_label_names": ["all"]}
    files = {name: pickle.dumps({"data": noise(n, 3072), "fine_labels": list(range(90, 90 + n))}) for name, n in (("train", 8), ("test", 4))}
    files["meta"], out = pickle.dumps(fine), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return files, out.getvalue()


def tiny_file(path):
    "One of the tiny files of svhn, mnist, fashion_mnist in its real format."
    n = 8 if "train" in path else 4
    if path.endswith(".mat"):
        out = io.BytesIO()
        savemat(out, {"X": noise(32, 32, 3, n), "y": (np.arange(n, dtype=np.uint8) + 3)[:, None] % 10 + 1})
        return out.getvalue()
    array = noise(n, 28, 28) if "images" in path else np.arange(n, dtype=np.uint8)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


@pytest.fixture
def server(monkeypatch):
    "A local server with tiny files of all four sets, their addresses and checksums told to torchvision."
    from torchvision import datasets
    md5 = lambda content: hashlib.md5(content).hexdigest()
    server, files = Server(), {}
    base = server.url.rsplit("/", 1)[0]
    parts, files["cifar-100-python.tar.gz"] = tiny_cifar100()
    listed = lambda name: [[name, md5(parts[name])]]
    known = dict(url=f"{base}/cifar-100-python.tar.gz", tgz_md5=md5(files["cifar-100-python.tar.gz"]), train_list=listed("train"),
                 test_list=listed("test"), meta={**datasets.CIFAR100.meta, "md5": md5(parts["meta"])})
    for field, value in known.items(): monkeypatch.setattr(datasets.CIFAR100, field, value)
    for path in PATHS["svhn"] + PATHS["mnist"] + PATHS["fashion_mnist"]: files[path] = tiny_file(path)
    split = {path.split("_")[0]: [f"{base}/{path}", path, md5(files[path])] for path in PATHS["svhn"]}
    monkeypatch.setattr(datasets.SVHN, "split_list", split)
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        raw = f"{kind.__name__}/raw/"
        monkeypatch.setattr(kind, "mirrors", [f"{base}/nowhere/", f"{base}/{raw}"])
        monkeypatch.setattr(kind, "resources", [(path[len(raw):], md5(content)) for path, content in files.items() if path.startswith(raw)])
    server.files = files

    def by_path(handler):
        server.archive = files.get(handler.path.lstrip("/"))
        return server.missing(handler) if server.archive is None else server.how(handler)
    server.reply, server.how = by_path, server.whole
    monkeypatch.delenv("AL_CIFAR_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_DEADLINE", 0.5)
    monkeypatch.setattr(download, "_STALL", 0.5)
    yield server
    server.close()


@SETS
def test_a_set_comes_from_the_network_once(name, server, tmp_path, monkeypatch):
    data = load_data(name, tmp_path)
    assert (data.name, len(data.y_train), len(data.y_test), data.source) == (name, 8, 4, (name, str(tmp_path)))
    assert (data.flip, data.pad) == (name in ("cifar100", "fashion_mnist"), data.shape[1]//8)
    assert data.n_classes == (100 if name == "cifar100" else 10)
    asked = server.requests
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    assert load_data(name, tmp_path).fingerprint == load_source(data.source).fingerprint == data.fingerprint
    assert server.requests == asked


@SETS
def test_files_put_there_by_hand(name, server, tmp_path, monkeypatch):
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    for path in PATHS[name]:
        (tmp_path/path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/path).write_bytes(server.files[path])
    assert load_data(name, tmp_path).name == name and server.requests == 0


@SETS
def test_a_damaged_file_is_fetched_again_and_no_other(name, server, tmp_path):
    first = load_data(name, tmp_path)
    asked, last = server.requests, tmp_path/PATHS[name][-1]
    last.write_bytes(last.read_bytes()[:-1])
    if name == "cifar100": (tmp_path/"cifar-100-python"/"train").write_bytes(b"damaged")
    assert load_data(name, tmp_path).fingerprint == first.fingerprint
    assert server.requests - asked == (2 if "mnist" in name else 1)  # the first address of mnist has nothing


@SETS
@pytest.mark.parametrize("how, reason", [("missing", "404"), ("altered", "is another file"), ("cut_short", "cut short"),
                                         ("silent", "no answer from"), ("drips_header", "no answer from"), ("stalls", "timed out")])
def test_a_bad_network_is_an_error_soon(name, server, tmp_path, monkeypatch, how, reason):
    if how != "stalls": monkeypatch.setattr(download, "_STALL", 20.0)
    for path in server.files: server.files[path] += bytes(2000)  # more than is sent of a file that is cut short
    server.how = getattr(server, how)
    start = time.perf_counter()
    with pytest.raises(DataUnavailableError, match=reason) as error: load_data(name, tmp_path)
    assert time.perf_counter() - start < 6
    for told in (*(str(tmp_path/path) for path in PATHS[name]), "AL_CIFAR_DATA", 'dataset="folder"'): assert told in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@SETS
@pytest.mark.parametrize("on_disk", ["nothing", "damaged"])
def test_offline_opens_no_socket(name, on_disk, server, tmp_path, monkeypatch):
    if on_disk == "damaged":
        (tmp_path/PATHS[name][0]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/PATHS[name][0]).write_bytes(b"damaged")
    def never(*args, **kw): raise AssertionError("the network was touched")
    for one in ("socket", "getaddrinfo", "create_connection"): monkeypatch.setattr(socket, one, never)
    monkeypatch.setattr(download, "urlopen", never)
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    with pytest.raises(DataUnavailableError, match="AL_CIFAR_OFFLINE is set"): load_data(name, tmp_path)


def test_presets_of_the_sets():
    rest = {"mnist", "fashion_mnist", "svhn"}
    assert usual_schedule("cifar100") == dict(initial=500, budget=10_000, batch=500)
    assert {tuple(usual_schedule(name).values()) for name in rest} == {(100, 2000, 100)}


def test_a_run_on_28_pixels(server, tmp_path):
    data = load_data("fashion_mnist", tmp_path)
    config = Config(dataset="fashion_mnist", initial=4, batch=2, budget=6, epochs=1, stratified=False)
    assert [record["n_labels"] for record in simulate(config, data)] == [4, 6]


# Deeper networks, and a user's own

def few_digits(n=40, tests=20):
    digits = load_data("digits")
    return replace(digits, name="few", source=None, x_train=digits.x_train[:n], y_train=digits.y_train[:n],
                   x_test=digits.x_test[:tests], y_test=digits.y_test[:tests])


DEEP = replace(TOY, dataset="few", initial=10, budget=14, batch=4, epochs=1, epsilon=0.)
TURNS = pytest.mark.parametrize("model", ["alone", pytest.param("resnet18", marks=pytest.mark.slow),
                                          pytest.param("resnet18(norm='none')", marks=pytest.mark.slow)])


@pytest.fixture
def alone():
    "A quick network that does not stack either."
    class Alone(Learner):
        width = 16
        def __init__(self, n_classes, shape, members=1):
            super().__init__(n_classes, shape, members)
            self.conv, self.norm = skip_init(nn.Conv2d, 3, 4, 3), nn.BatchNorm2d(4)
            self.classify = skip_init(nn.Linear, 16, n_classes)
        def embedding(self, x): return F.adaptive_avg_pool2d(self.norm(self.conv(x)), 2).flatten(1).relu()
    MODELS.register("alone")(Alone)
    yield
    del MODELS.components["alone"]


@TURNS
@pytest.mark.parametrize("change", [dict(evaluators=2, strategy="committee"), dict(batch_norm="labelled", strategy="kmeans"),
                                    dict(averaging="tail")])
def test_a_network_that_does_not_stack_takes_turns(model, change, alone):
    few = few_digits()
    pair = [replace(DEEP, model=model, **change), replace(DEEP, model=model, **change, replication=1)]
    singly = [outcome(simulate(config, few)) for config in pair]
    assert [record["n_labels"] for record in singly[0]] == [10, 14]
    assert [outcome(run) for run in zip(*simulate_cohort(pair, few))] == singly
    if "evaluators" in change: assert len(singly[0][0]["accuracies"]) == 2


@TURNS
def test_a_study_of_cohorts_with_a_network_that_does_not_stack(model, alone, tmp_path):
    few = few_digits()
    pair = [replace(DEEP, model=model), replace(DEEP, model=model, replication=1)]
    paths = run_study(pair, tmp_path, few, progress=False, cohort=2)
    assert [outcome(read_run(path)[1]) for path in paths] == [outcome(simulate(config, few)) for config in pair]


def test_what_training_allocates():
    "An image more in a mini-batch allocates what the cost says, by torch's own record of memory."
    from torch.profiler import ProfilerActivity, profile
    model = draw_weights(MODELS.make("resnet18")(10, (3, 16, 16), 1), np.random.default_rng(0)).train()

    def held(n):
        x = torch.zeros(n, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: kept = model(x)
        sizes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
        assert kept.requires_grad
        return sum(sizes)
    model(torch.zeros(2, 3, 16, 16))
    assert abs((held(24) - held(8))/16/model.cost().train_bytes - 1) < .2


MINE = '''"A network as it stands in a user's file."
from torch import nn
from torch.nn.utils import skip_init
from al_cifar.model import MODELS, Learner

@MODELS.register("flat")
class Flat(Learner):
    width = 16
    def __init__(self, n_classes, shape, members=1, *, scale=1.0):
        super().__init__(n_classes, shape, members)
        self.hidden = skip_init(nn.Linear, shape[0]*shape[1]*shape[2], self.width)
        self.classify, self.scale = skip_init(nn.Linear, self.width, n_classes), scale
    def embedding(self, x): return (self.scale*self.hidden(x.flatten(1))).relu()

@MODELS.register("headless")
class Headless(Learner):
    width = 16
    def __init__(self, n_classes, shape, members=1):
        super().__init__(n_classes, shape, members)
        self.classify = skip_init(nn.Linear, 16, n_classes)
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path/"my_networks_of_test_sets.py"
    path.write_text(MINE)
    yield str(path)
    for name in ("flat", "headless"): MODELS.components.pop(name, None)
    sys.modules.pop(path.stem, None)


def test_a_network_of_ones_own_in_a_form_and_a_worker(mine, tmp_path):
    said = QUICK | dict(dataset="digits", plugins=mine, model="flat(scale=2)", initial=20, batch=20, budget=40)
    plan = prepare(EXPERIMENT, said)
    config, = plan.configs
    check_model(config.model, shape=(3, 16, 16))
    expected = outcome(simulate(config, plan.data))
    task = task_of(config, plan.data, tmp_path/"a.jsonl", tmp_path/"stop")
    del MODELS.components["flat"]  # as in a process that has never heard of it
    assert work(pickle.loads(pickle.dumps(task))) == {"state": "done"}
    head, records = read_run(tmp_path/"a.jsonl")
    assert outcome(records) == expected and list(head["sources"]) == ["model"]


def test_a_network_without_an_embedding_is_refused(mine):
    said = QUICK | dict(dataset="digits", plugins=mine, model="headless")
    with pytest.raises(ExperimentError, match="Headless lacks embedding"): expect(prepare(EXPERIMENT, said))
