"Fetching the authors' summaries, from a local server in place of theirs."
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from test_paper import complete, summaries

from al_cifar.data import download
from al_cifar.paper.released import (AREAS, SUMMARIES, PublishedUnavailableError, fetch_published,
                                     read_published)

NAMES = {*SUMMARIES.values(), AREAS}


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    "Serves tmp_path/site, with good summaries under the ref HEAD; `asked` are the paths it was asked for."
    df = complete()
    summaries(tmp_path/"site/HEAD", df[(df.protocol == "paper") & df.crn])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path/"site"))
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("AL_CIFAR_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_good(server, tmp_path):
    dest = fetch_published(tmp_path/"here", source=server.url)
    assert files(dest) == NAMES
    for name in NAMES: assert (dest/name).read_bytes() == (tmp_path/"site/HEAD"/name).read_bytes()
    assert len(read_published(dest).curves) == 5*3*20 and len(read_published(dest).areas) == 4*3*5
    asked = len(server.asked)
    fetch_published(dest, source=server.url)
    assert len(server.asked) == asked == 6, "what is there is not fetched again"


def test_resumes(server, tmp_path):
    (tmp_path/"site/HEAD"/AREAS).rename(tmp_path/"aside.csv")
    with pytest.raises(PublishedUnavailableError, match="404"):
        fetch_published(tmp_path/"here", source=server.url)
    assert files(tmp_path/"here") == NAMES - {AREAS}
    (tmp_path/"aside.csv").rename(tmp_path/"site/HEAD"/AREAS)
    assert files(fetch_published(tmp_path/"here", source=server.url)) == NAMES


def test_no_such_ref(server, tmp_path):
    message = "(?s)trunk/AL_Results.*404.*another ref than 'trunk'"
    with pytest.raises(PublishedUnavailableError, match=message):
        fetch_published(tmp_path/"here", ref="trunk", source=server.url)
    assert not files(tmp_path/"here")


COLUMNS = "strategy,labels,accuracy_mean,accuracy_ci95\n"


@pytest.mark.parametrize("text,message", [
    ("strategy,labels,mean,ci\nrandom,100,.1,.1\n", "lacks the column"),
    ("<!doctype html><p>busy</p>\n", "lacks the column"),
    ("", "is no CSV"),
    (COLUMNS + "random,100,14.8,2.6\n", "accuracies in"),
    (COLUMNS + "random,100,.1,.1\n", "strategies")])
def test_wrong_file(server, tmp_path, text, message):
    (tmp_path/"site/HEAD"/SUMMARIES["0.0"]).write_text(text)
    with pytest.raises(PublishedUnavailableError, match=message):
        fetch_published(tmp_path/"here", source=server.url)
    assert not files(tmp_path/"here")


def test_wrong_file_on_disk_is_named(server, tmp_path):
    dest = fetch_published(tmp_path/"here", source=server.url)
    (dest/AREAS).write_text("epsilon\n1\n")
    with pytest.raises(ValueError, match="aulc_results.csv lacks the column"):
        fetch_published(dest, source=server.url)


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.delenv("AL_CIFAR_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_DEADLINE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(PublishedUnavailableError, match="no answer from"):
            fetch_published(tmp_path/"here", source=f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_offline_opens_no_socket(tmp_path, monkeypatch):
    def forbidden(*args, **kw): raise AssertionError("the network was asked")
    for name in ("socket", "getaddrinfo", "create_connection"): monkeypatch.setattr(socket, name, forbidden)
    with pytest.raises(PublishedUnavailableError, match="AL_CIFAR_OFFLINE is set"):
        fetch_published(tmp_path/"here")
    assert not files(tmp_path)
