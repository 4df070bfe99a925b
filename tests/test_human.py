"Human labels: a file that may be anything, rows that find their images, and annotators that replay them."
import hashlib
import http.server
import io
import os
import pickle
import shutil
import subprocess
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PAPERMILL, ROOT
from PIL import Image

from al_cifar.data import DataUnavailableError, load_data
from al_cifar.data import download, human_file
from al_cifar.data.folder import load_folder
from al_cifar.data.human_file import NAME, SETS, human_file_places, load_human_file, read_human_file
from al_cifar.data.human_labels import CIFAR10_CLASSES
from al_cifar.data.images import ImageData
from al_cifar.data.sources import load_source
from al_cifar.data.stems import stems_file
from al_cifar.loop import Config, simulate
from al_cifar.oracle import ORACLES, check_oracle, confusion_matrix
from al_cifar.study import load_results, read_run, run_study

WHICH = "random1", "random2", "random3", "aggregate", "worst"
REAL = Path(os.environ.get("AL_CIFAR_DATA", "nowhere"))/NAME
real = pytest.mark.skipif(not REAL.is_file(), reason=f"no {NAME} in the folder that AL_CIFAR_DATA names")


def toy_labels(seed=0):
    "Six labels for each of 50,000 images; class i % 10 is true, and a fifth is wrong."
    g, n = np.random.default_rng(seed), 50_000
    true = np.arange(n) % 10
    err = lambda: np.where(g.random(n) < .2, (true + g.integers(1, 10, n)) % 10, true)
    return {key: true if name == "clean" else err() for name, key in SETS.items()}


def packed(content):
    "The bytes of a file as PyTorch writes it."
    out = io.BytesIO()
    member = zipfile.ZipInfo("archive/data.pkl")  # without the time of day: equal content, equal bytes
    with zipfile.ZipFile(out, "w") as archive: archive.writestr(member, content)
    return out.getvalue()


LABELS = toy_labels()
TOY = packed(pickle.dumps(LABELS, 2))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "A place of its own for caches and data, and the checksum of the toy file for that of the real one."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    monkeypatch.setenv("AL_CIFAR_DATA", str(tmp_path/"data"))
    monkeypatch.setattr(human_file, "SHA256", hashlib.sha256(TOY).hexdigest())
    (tmp_path/"data").mkdir()
    return tmp_path/"data"


@pytest.fixture
def toy_file(toy):
    (toy/NAME).write_bytes(TOY)
    return toy/NAME


# The file

class Server:
    "Answers each request with `content`, or with nothing; counts requests."
    def __init__(self):
        self.requests, self.content, self.over = 0, TOY, threading.Event()
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                outer.reply(self)
            def log_message(self, *args): pass
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/{NAME}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.reply = self.whole

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def send(self, handler, content):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(TOY)))
        handler.end_headers()
        handler.wfile.write(content)

    def whole(self, handler): self.send(handler, TOY)

    def cut_short(self, handler): self.send(handler, TOY[:500])

    def altered(self, handler): self.send(handler, TOY[:-1] + b"?")

    def missing(self, handler): handler.send_error(404)

    def silent(self, handler): self.over.wait(30)


@pytest.fixture
def server(toy, monkeypatch):
    monkeypatch.delenv("AL_CIFAR_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    monkeypatch.setattr(human_file, "URL", server.url)
    yield server
    server.close()


def test_download_then_disk(server, monkeypatch):
    first = load_human_file()
    for name, key in SETS.items(): assert (first[name] == LABELS[key]).all()
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    assert (load_human_file()["worst"] == first["worst"]).all()
    assert server.requests == 1


def test_a_file_put_there_by_hand(server, toy_file):
    assert (load_human_file()["random2"] == LABELS["random_label2"]).all()
    assert server.requests == 0


@pytest.mark.parametrize("how,reason", [
    ("cut_short", "was cut short"), ("altered", "its sha256 is"), ("missing", "404"), ("silent", "no answer from")])
def test_a_bad_network_then_a_good_one(server, monkeypatch, how, reason):
    server.reply = getattr(server, how)
    if how == "silent": monkeypatch.setattr(download, "_DEADLINE", .5)
    with pytest.raises(DataUnavailableError, match=reason) as raised: load_human_file()
    monkeypatch.setattr(download, "_DEADLINE", 8.)
    for place in human_file_places(): assert str(place) in str(raised.value)
    assert "AL_CIFAR_DATA" in str(raised.value)
    cache = human_file_places()[-1].parent
    assert not cache.exists() or os.listdir(cache) == []
    server.reply = server.whole
    assert (load_human_file()["clean"] == LABELS["clean_label"]).all()


def test_offline_opens_no_socket(server, monkeypatch):
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    with pytest.raises(DataUnavailableError, match="AL_CIFAR_OFFLINE is set"): load_human_file()
    assert server.requests == 0


class Evil:
    "Unpickled plainly, it makes a file."
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, "w")


def nested(evil): return {"clean_label": [evil]}
def as_state(evil): return {**LABELS, "clean_label": np.array([evil], dtype=object)}
def beside(evil): return {**LABELS, "more": evil}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("hidden", [nested, as_state, beside])
def test_a_pickle_that_runs_code_is_refused(toy, monkeypatch, hidden, protocol):
    harm = toy/"harm"
    content = pickle.dumps(hidden(Evil(str(harm))), protocol)
    pickle.loads(content)
    assert harm.exists()  # plainly unpickled, it does harm
    harm.unlink()
    file = packed(content)
    (toy/NAME).write_bytes(file)
    monkeypatch.setattr(human_file, "SHA256", hashlib.sha256(file).hexdigest())
    with pytest.raises(ValueError, match="which is not allowed"): load_human_file()
    assert not harm.exists()


def forged(**changed): return packed(pickle.dumps({**LABELS, **changed}, 2))


@pytest.mark.parametrize("content,reason", [
    (forged(worse_label=LABELS["worse_label"][1:]), "worse_label must hold 50,000 labels"),
    (forged(worse_label=LABELS["worse_label"].reshape(2, -1)), "worse_label must hold 50,000 labels"),
    (forged(aggre_label=LABELS["aggre_label"] + 1), r"aggre_label must lie in 0\.\.9, got 10"),
    (forged(aggre_label=LABELS["aggre_label"] - 1), r"aggre_label must lie in 0\.\.9, got -1"),
    (forged(aggre_label=LABELS["aggre_label"]*1.), "aggre_label must hold integers"),
    (forged(random_label3=None), "it has no array random_label3"),
    (packed(pickle.dumps([1, 2])), "it has no array clean_label"),
    (packed(b"no pickle"), "cannot be read"),
    (b"no archive", "cannot be read"), (b"", "cannot be read")])
def test_a_file_of_another_form_is_refused(toy, monkeypatch, content, reason):
    (toy/NAME).write_bytes(content)
    monkeypatch.setattr(human_file, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match=reason): load_human_file()


def test_an_altered_file_is_refused(toy_file):
    labels = LABELS["random_label1"].copy()
    labels[7] = (labels[7] + 1) % 10
    for content in (forged(random_label1=labels), TOY[:-100]):
        toy_file.write_bytes(content)
        with pytest.raises(ValueError, match="It was cut short, altered or put in another order"): load_human_file()


# Rows

def save_noise(path, seed):
    "An image of random pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def toy_folder(root, numbers, name=str):
    "An image of each number of its class, in class folders; the name of a file is that of its number."
    for i in numbers:
        save_noise(root/"train"/CIFAR10_CLASSES[i % 10]/f"{name(i)}.png", i)
    for c in CIFAR10_CLASSES: save_noise(root/"test"/c/"0.png", 0)
    return root


NUMBERS = np.random.default_rng(1).permutation(50_000)[:300]


@pytest.mark.parametrize("name", [str, "{:05d}".format])
def test_rows_follow_names(toy_file, tmp_path, name):
    data = load_folder(toy_folder(tmp_path/"images", NUMBERS, name))
    rows = data.human_labels.rows
    assert sorted(rows) == sorted(NUMBERS)
    assert rows.tolist() == [int(stem) for stem in sorted(map(name, NUMBERS))]
    for which in WHICH:
        oracle = ORACLES.make(f"human(which='{which}')")().on(data.y_train.numpy(), data)
        u, v = np.random.default_rng(2).random((2, 300))
        given = oracle.answer(np.arange(300), u, v, np.arange(300))
        assert (given == LABELS[SETS[which]][rows]).all()


def test_names_reach_a_worker_and_older_caches(toy_file, tmp_path):
    data = load_folder(toy_folder(tmp_path/"images", NUMBERS))
    rows = data.human_labels.rows
    load_source.__globals__["_open_source"].cache_clear()
    assert (load_source(data.source).human_labels.rows == rows).all()
    stems_file(Path(data.source[1])).unlink()  # as an earlier version leaves it
    with pytest.raises(ValueError, match="load the folder that they came from once more"):
        replace(data).human_labels
    again = load_folder(tmp_path/"images")
    assert again.fingerprint == data.fingerprint
    assert (again.human_labels.rows == rows).all()


def test_names_without_a_cache(toy_file, tmp_path, monkeypatch):
    folder = toy_folder(tmp_path/"images", NUMBERS)
    rows = load_folder(folder).human_labels.rows
    (tmp_path/"taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"taken"))
    with pytest.warns(UserWarning, match="could not be cached"): data = load_folder(folder)
    assert data.source[0] == "folder"
    assert (data.human_labels.rows == rows).all()


def test_the_order_of_torchvision(toy_file):
    tiny = load_data("digits").x_train[:1, :, :2, :2]
    y = np.arange(50_000) % 10
    make = lambda y, **more: ImageData("cifar10", tiny.expand(50_000, -1, -1, -1), *labels_of(y, tiny), **more)
    assert (make(y).human_labels.rows == np.arange(50_000)).all()
    y[[3, 77]] = 4
    with pytest.raises(ValueError, match="differ for 2 of 50,000 images, first for image 3"): make(y).human_labels
    with pytest.raises(ValueError, match="got 'cifar10' with the classes"):
        replace(make(y), classes=tuple("0123456789")).human_labels


def labels_of(y, tiny):
    return torch.tensor(y), tiny, torch.tensor([0]), CIFAR10_CLASSES


def test_other_data_are_refused(toy_file):
    for text in ("human(which='worst')", "matched(which='random1')"):
        config = Config(dataset="digits", oracle=text, initial=20, budget=40, batch=20, epochs=1)
        with pytest.raises(ValueError, match="known for the training images of CIFAR-10"):
            next(simulate(config, load_data("digits")))


# Annotators in runs

def outcome(record): return {name: value for name, value in record.items() if name != "seconds"}


@pytest.mark.parametrize("which", ["random1", "worst"])
@pytest.mark.parametrize("kind", ["human", "matched"])
def test_runs_resume_to_the_bit(toy_file, tmp_path, kind, which):
    data = load_folder(toy_folder(tmp_path/"images", NUMBERS))
    config = Config(dataset="folder", oracle=f"{kind}(which='{which}')", initial=20, budget=80, batch=20, epochs=2)
    records = list(simulate(config, data))
    assert len(records) == 4
    for done in range(1, 4):
        rest = simulate(config, data, records[:done])
        assert list(map(outcome, rest)) == list(map(outcome, records[done:]))
    if kind == "matched": return
    rows = data.human_labels.rows
    for record in records[:-1]: assert record["answers"] == LABELS[SETS[which]][rows[record["queried"]]].tolist()


def test_a_study_names_its_annotator(toy_file, tmp_path):
    data = load_folder(toy_folder(tmp_path/"images", NUMBERS))
    text = "human(which='worst')"
    config = Config(dataset="folder", oracle=text, initial=20, budget=40, batch=20, epochs=1)
    assert config.condition == text
    run_study([config, replace(config, strategy="least_confidence")], tmp_path/"out", data, progress=False)
    frame = load_results(tmp_path/"out")
    assert set(frame.condition) == set(frame.oracle) == {text}


# The real file

@real
def test_the_numbers_of_the_real_file():
    "design.md, section 8; Wei et al. (2022), table 1."
    sets = read_human_file(REAL)
    wrong = {which: (sets[which] != sets["clean"]).mean() for which in WHICH}
    for which, share in zip(WHICH, (.172, .181, .176, .090, .402)): assert abs(wrong[which] - share) < .0006, which
    assert (np.bincount(sets["clean"]) == 5000).all()
    people = [sets[which] for which in WHICH[:3]]
    matrix = confusion_matrix(np.tile(sets["clean"], 3), np.concatenate(people), 10)
    name, diagonal = CIFAR10_CLASSES.index, matrix.diagonal()
    assert (diagonal.argmin(), diagonal.argmax()) == (name("cat"), name("horse"))
    assert abs(diagonal.min() - .74) < .005 and abs(diagonal.max() - .89) < .005
    for true, said, share in (("truck", "automobile", .12), ("cat", "dog", .10), ("automobile", "truck", .10),
                              ("dog", "cat", .08), ("deer", "horse", .08)):
        assert abs(matrix[name(true), name(said)] - share) < .0055, (true, said)
    first, second, third = (labels != sets["clean"] for labels in people)
    assert abs(second[first].mean() - .29) < .005


@real
def test_what_the_real_sets_are():
    "worst: a wrong answer if there is any. aggregate: the vote, and one of the three where all differ."
    sets = read_human_file(REAL)
    people = np.stack([sets[which] for which in WHICH[:3]])
    assert ((sets["worst"] != sets["clean"]) == (people != sets["clean"]).any(axis=0)).all()
    votes = np.stack([(people == c).sum(axis=0) for c in range(10)])
    agreed = votes.max(axis=0) > 1
    assert (sets["aggregate"] == votes.argmax(axis=0))[agreed].all()
    for which in "worst", "aggregate": assert (people == sets[which]).any(axis=0).all()


def real_pool():
    "Data with the true labels of the real file, and one grey pixel for each image."
    y = read_human_file(REAL)["clean"]
    x = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    return ImageData("cifar10", x.expand(len(y), -1, -1, -1), torch.tensor(y), x, torch.tensor([0]), CIFAR10_CLASSES)


@real
@pytest.mark.parametrize("which", WHICH)
def test_the_real_labels_are_replayed(which):
    data, sets = real_pool(), read_human_file(REAL)
    human = ORACLES.make(f"human(which='{which}')")().on(data.y_train.numpy(), data)
    u, v = np.random.default_rng(0).random((2, 50_000))
    assert (human.answer(np.arange(50_000), u, v, np.arange(50_000)) == sets[which]).all()
    check_oracle(f"human(which='{which}')", data=data)


@real
@pytest.mark.parametrize("which", WHICH)
def test_the_real_matrix_is_matched(which):
    data, sets, n = real_pool(), read_human_file(REAL), 50_000
    matched = ORACLES.make(f"matched(which='{which}')")().on(data.y_train.numpy(), data)
    g, y = np.random.default_rng(0), sets["clean"]
    given = [matched.answer(np.arange(n), *g.random((2, n)), np.arange(n)) for _ in range(10)]  # 500,000 answers
    again = confusion_matrix(np.tile(y, 10), np.concatenate(given), 10)
    shares = confusion_matrix(y, sets[which], 10)
    error = np.sqrt(shares*(1 - shares)/n)  # 5,000 images of a class, ten times
    assert (abs(again - shares) <= 4.5*error + 1e-5).all()
    assert abs((given[0] != y).mean() - (sets[which] != y).mean()) < .008
    check_oracle(f"matched(which='{which}')", data=data)


@real
@pytest.mark.slow
def test_papermill_replays_human_labels(tmp_path):
    "Random pixels in a folder, with names and classes of real images: the labels do not look at the pixels."
    sets, root = read_human_file(REAL), tmp_path/"data"
    for i in range(300): save_noise(root/"train"/CIFAR10_CLASSES[sets["clean"][i]]/f"{i:05d}.png", i)
    for c in CIFAR10_CLASSES: save_noise(root/"test"/c/"0.png", 0)
    shutil.copy(REAL, root/NAME)
    given = dict(dataset="folder", oracle="human(which='random1')", epsilon=0, replications=1, initial=20,
                 budget=60, batch=20, epochs=1, out_dir=tmp_path/"study")
    command = [PAPERMILL, str(ROOT/"nbs/run_experiment.ipynb"), str(tmp_path/"out.ipynb")]
    for name, value in given.items(): command += ["-p", name, str(value)]
    places = dict(AL_CIFAR_DATA=str(root), XDG_CACHE_HOME=str(tmp_path/"cache"))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | places, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = load_results(tmp_path/"study")
    assert set(results.condition) == {"human(which='random1')"}
    for path in (tmp_path/"study").glob("*.jsonl"):
        for record in read_run(path)[1][:-1]:
            assert record["answers"] == sets["random1"][record["queried"]].tolist()
