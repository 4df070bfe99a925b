"""Runs a page in a process of its own that starts with the heavy imports done.

They take 2 to 5 seconds in a new process, for every page. Here a server does them once for each pytest
worker, and each page runs in a fork of the server: what a page changes ends with its fork.
"""
import multiprocessing
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "torchvision.transforms.v2", "sklearn.cluster", "statsmodels.api", "scipy.stats", "pandas",
         "matplotlib.pyplot", "seaborn", "nbdev.test"]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(HEAVY)


def nbdev_test(page, log):
    "What `nbdev_test --path page` does, with everything that it prints going to the file `log`."
    with open(log, "wb") as file:
        for output in (1, 2): os.dup2(file.fileno(), output)
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    from nbdev.test import nbdev_test
    nbdev_test(path=str(page), n_workers=0)


def run_page(page, log):
    "The exit code of a page's tests and what they printed."
    process = SERVER.Process(target=nbdev_test, args=(page, log))
    process.start()
    process.join()
    return process.exitcode, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
