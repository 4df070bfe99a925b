"CIFAR-10 over networks good and bad, played by a local server; writers that meet in one folder."
import hashlib
import http.server
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from al_cifar import data
from al_cifar.data import download

PER_BATCH = 4


def tiny_batches():
    "The files of the real archive with four images a batch: {name: bytes}."
    rng, files = np.random.default_rng(0), {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, PER_BATCH).tolist()
        files[name] = pickle.dumps({"data": images, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    return files


def tar_gz(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Server:
    "Answers each request with what `self.reply(handler)` does; counts requests."
    def __init__(self):
        self.requests, self.reply, self.over = 0, self.whole, threading.Event()
        self.archive = b""
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                outer.reply(self)
            def log_message(self, *args): pass
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/cifar-10-python.tar.gz"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def head(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.archive)))
        handler.end_headers()

    def whole(self, handler):
        self.head(handler)
        handler.wfile.write(self.archive)

    def missing(self, handler): handler.send_error(404)

    def silent(self, handler): self.over.wait(30)

    def half_a_header(self, handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
        handler.wfile.flush()
        self.over.wait(30)

    def drips_header(self, handler):
        while not self.over.wait(.1):  # always something, never enough: no socket timeout sees this
            try:
                handler.wfile.write(b"H")
                handler.wfile.flush()
            except OSError: return

    def header_only(self, handler):
        self.head(handler)
        handler.wfile.flush()
        self.over.wait(30)

    def stalls(self, handler):
        self.head(handler)
        handler.wfile.write(self.archive[:500])
        handler.wfile.flush()
        self.over.wait(30)

    def cut_short(self, handler):
        self.head(handler)
        handler.wfile.write(self.archive[:500])

    def with_length(self, handler, length):
        handler.send_response(200)
        if length is not None: handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(self.archive)

    def for_ever(self, handler, pause=0., piece=b"x"*65536):
        handler.send_response(200)
        handler.end_headers()
        while not self.over.wait(pause):
            try: handler.wfile.write(piece)
            except OSError: return

    def floods(self, handler): self.for_ever(handler)

    def drips(self, handler): self.for_ever(handler, .05, b"x")

    def drips_a_chunk(self, handler):
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"1\r\nx\r\n")
        while not self.over.wait(.05):  # the size of a chunk, that never ends
            try: handler.wfile.write(b"0")
            except OSError: return

    def altered(self, handler):
        self.head(handler)
        handler.wfile.write(self.archive[:-1] + b"?")


@pytest.fixture
def server(monkeypatch):
    "A local server in place of CIFAR-10's, with a tiny archive and its checksums."
    from torchvision.datasets import CIFAR10
    md5 = lambda b: hashlib.md5(b).hexdigest()
    server, files = Server(), tiny_batches()
    server.archive = tar_gz(files)
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(server.archive))
    train = [[n, md5(c)] for n, c in files.items() if n.startswith("data_")]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(files["batches.meta"])})
    monkeypatch.delenv("AL_CIFAR_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_DEADLINE", 0.5)
    monkeypatch.setattr(download, "_STALL", 0.5)
    yield server
    server.close()


def test_download_then_disk(server, tmp_path, monkeypatch):
    got = data.load_data("cifar10", tmp_path/"new"/"root")
    assert (got.name, got.shape, got.pad, got.flip) == ("cifar10", (3, 32, 32), 4, True)
    assert (len(got.x_train), len(got.x_test)) == (5*PER_BATCH, PER_BATCH)
    assert got.classes == tuple(f"class {i}" for i in range(10))
    batch = pickle.loads(tiny_batches()["data_batch_2"])
    second = slice(PER_BATCH, 2*PER_BATCH)
    assert torch.equal(got.x_train[second], torch.from_numpy(batch["data"]).reshape(-1, 3, 32, 32))
    assert got.y_train[second].tolist() == batch["labels"]
    assert got.source == ("cifar10", str(tmp_path/"new"/"root"))
    assert server.requests == 1

    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = data.load_data("auto", tmp_path/"new"/"root")
    assert (again.name, again.fingerprint, server.requests) == ("cifar10", got.fingerprint, 1)
    assert data.load_source(again.source).fingerprint == got.fingerprint
    left = sorted(os.listdir(tmp_path/"new"/"root"))
    assert left == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_auto_downloads(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AL_CIFAR_DATA", str(tmp_path))
    assert data.load_data().name == "cifar10"
    assert server.requests == 1


def test_archive_put_there_by_hand(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    (tmp_path/"cifar-10-python.tar.gz").write_bytes(server.archive)
    assert data.load_data("auto", tmp_path).name == "cifar10"
    assert server.requests == 0


def test_damaged_batch_is_unpacked_again(server, tmp_path):
    first = data.load_data("cifar10", tmp_path)
    for name in "data_batch_3", "batches.meta":
        (tmp_path/"cifar-10-batches-py"/name).write_bytes(b"damaged")
        assert data.load_data("cifar10", tmp_path).fingerprint == first.fingerprint
    assert server.requests == 1


def test_damaged_archive_is_fetched_again(server, tmp_path):
    (tmp_path/"cifar-10-python.tar.gz").write_bytes(server.archive[:500])
    assert data.load_data("cifar10", tmp_path).name == "cifar10"
    assert server.requests == 1


@pytest.mark.parametrize("how, reason", [
    ("missing", "404"), ("altered", "is another file"), ("cut_short", "cut short"),
    ("silent", "no answer from"), ("half_a_header", "no answer from"),
    ("drips_header", "no answer from"), ("header_only", "no answer from"), ("stalls", "timed out")])
def test_bad_network_then_retry(server, tmp_path, monkeypatch, how, reason):
    if how != "stalls":  # the deadline must end it, not the socket
        monkeypatch.setattr(download, "_STALL", 20.0)
    server.reply = getattr(server, how)
    start = time.perf_counter()
    with pytest.raises(data.DataUnavailableError, match=reason) as error:
        data.load_data("cifar10", tmp_path)
    assert time.perf_counter() - start < 5
    ways = "AL_CIFAR_DATA", 'dataset="folder"', 'dataset="digits"'
    for way in str(tmp_path/"cifar-10-python.tar.gz"), *ways:
        assert way in str(error.value)
    assert os.listdir(tmp_path) == []

    with pytest.warns(data.DataFallbackWarning, match="NOT CIFAR-10") as seen:
        assert data.load_data("auto", tmp_path).name == "digits"
    [warned] = [one for one in seen if one.category is data.DataFallbackWarning]  # others may come from threads
    assert Path(warned.filename) == Path(__file__)  # the warning points at the caller

    server.reply = server.whole
    assert data.load_data("auto", tmp_path).name == "cifar10"


@pytest.mark.parametrize("length", ["-1", "-170498071", "many", "1e9", "\u00b2", "9"*400, "9"*6000, "", None])
def test_silly_length_does_not_matter(server, tmp_path, length):
    server.reply = lambda handler: server.with_length(handler, length)
    assert data.load_data("cifar10", tmp_path).name == "cifar10"


def test_huge_length_is_refused(server, tmp_path):
    server.reply = lambda handler: server.with_length(handler, "9"*14)
    with pytest.raises(data.DataUnavailableError, match="more than 1,073,741,824 bytes"):
        data.load_data("cifar10", tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("how, reason", [("floods", "has more than 9,000,000 bytes"), ("drips", "was not here within"),
                                         ("drips_a_chunk", "was not here within")])
def test_a_server_that_sends_for_ever(server, tmp_path, monkeypatch, how, reason):
    monkeypatch.setattr(download, "_MOST", 9_000_000, raising=False)
    monkeypatch.setattr(download, "_WHOLE", 1.0, raising=False)
    threading.Timer(8, server.over.set).start()  # so that this ends without a deadline, too
    server.reply = getattr(server, how)
    start = time.perf_counter()
    with pytest.raises(data.DataUnavailableError, match=reason): data.load_data("cifar10", tmp_path)
    assert time.perf_counter() - start < 6
    assert os.listdir(tmp_path) == []


def test_name_lookup_that_hangs(server, tmp_path, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kw: over.wait(30))
    start = time.perf_counter()
    with pytest.warns(data.DataFallbackWarning, match="no answer"):
        assert data.load_data("auto", tmp_path).name == "digits"
    assert time.perf_counter() - start < 5
    over.set()


def test_refused_and_unwritable(server, tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(data.DataUnavailableError, match="Error"):
        data.load_data("cifar10", tmp_path/"file")  # no folder can be made there
    server.close()
    with pytest.raises(data.DataUnavailableError, match="refused"):
        data.load_data("cifar10", tmp_path)


@pytest.mark.parametrize("on_disk", ["nothing", "damaged batches", "damaged archive"])
def test_offline_opens_no_socket(server, tmp_path, monkeypatch, on_disk):
    if on_disk == "damaged batches": (tmp_path/"cifar-10-batches-py").mkdir()
    if on_disk == "damaged archive": (tmp_path/"cifar-10-python.tar.gz").write_bytes(b"no archive")
    def never(*args, **kw): raise AssertionError("the network was touched")
    for name in "socket", "getaddrinfo", "create_connection":
        monkeypatch.setattr(socket, name, never)
    monkeypatch.setattr(download, "urlopen", never)
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    with pytest.raises(data.DataUnavailableError, match="AL_CIFAR_OFFLINE is set"):
        data.load_data("cifar10", tmp_path)
    with pytest.warns(data.DataFallbackWarning, match="AL_CIFAR_OFFLINE is set"):
        assert data.load_data("auto", tmp_path).name == "digits"
    assert data.load_data("digits", tmp_path).name == "digits"


def test_auto_hints_at_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AL_CIFAR_OFFLINE", "1")
    (tmp_path/"train").mkdir()
    with pytest.warns(data.DataFallbackWarning, match='did you mean dataset="folder"'):
        data.load_data("auto", tmp_path)


def toy(value, n=3000):
    x = torch.full((n, 3, 8, 8), value, dtype=torch.uint8)
    y = torch.arange(n) % 2
    return data.ImageData("toy", x, y, x[:2], y[:2], ("a", "b"))


def test_writers_that_meet(tmp_path):
    "Many writers of two contents in one place: in the end it holds one of them, whole, and no more."
    both = [toy(0), toy(255)]
    errors = []
    def write(d):
        try:
            for _ in range(5): data.save_data(d, tmp_path/"here")
        except Exception as error: errors.append(error)
    threads = [threading.Thread(target=write, args=(d,)) for d in both for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors
    assert data.read_data(tmp_path/"here").fingerprint in {d.fingerprint for d in both}
    assert os.listdir(tmp_path) == ["here"]


def test_nothing_is_unpickled(tmp_path):
    path = data.save_data(toy(0, 4), tmp_path/"d")
    np.save(path/"y_train.npy", np.array([print] * 4, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="is damaged"):
        data.read_data(path)


def test_digits_and_folder_do_without_torchvision():
    code = ("import sys; from al_cifar.data import load_data; load_data('digits'); "
            "sys.exit('torchvision' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
