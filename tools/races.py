#!/usr/bin/env python3
"""Simulated races whose truth is known: makes results/races.csv.gz, a row per setting.

    python tools/races.py                                   (a few minutes)
    python tools/races.py --races 1000 --out some.csv
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from al_cifar.analysis.curves import aulc
from al_cifar.analysis.race_trials import CONFIGURATIONS, normal_source, precision_row, race_row, real_source
from al_cifar.study.results import load_results

RESULTS = ROOT/"results"


def residuals(results):
    "Areas minus the mean of their strategy, of the replications that have all strategies; a row each."
    parts = []
    for _, areas in aulc(results).groupby("condition"):
        table = areas.pivot(index="replication", columns="strategy", values="aulc").dropna()
        parts.append(table - table.mean())
    return pd.concat(parts).to_numpy()


def cifar():
    "The paper's question to 1,000 labels, both tables that have its three strategies."
    paper = load_results(RESULTS/"paper.csv.gz", mix=("protocol",)).query("protocol == 'paper' and crn == True")
    more = load_results(RESULTS/"replications.csv.gz")
    whole = more.groupby(["condition", "strategy", "replication"]).n_labels.transform("max") == 1000
    return np.concatenate([residuals(part.query("n_labels <= 1000")) for part in (paper, more[whole])])


def sources(k):
    "Where areas come from, by name."
    found = {
        "normal, independent": normal_source(k), "normal, correlation .5": normal_source(k, .5),
        "normal, unequal variances": normal_source(k, .5, np.linspace(.5, 1.5, k))}
    real = {"digits": residuals(load_results(RESULTS/"digits.csv.gz"))} | ({"cifar10": cifar()} if k == 3 else {})
    for name, rows in real.items():
        found[f"{name}, common"] = real_source(rows, k)
        found[f"{name}, shuffled"] = real_source(rows, k, joint=False)
    return found


def rows(races):
    "All rows of the table. Where every winner is right, or nearly, a tenth of the races shows what they cost."
    for k in (3, 10, 20):
        for name, source in sources(k).items():
            facts = dict(source=name, k=k)
            for delta in (.3, .5):
                for configuration in CONFIGURATIONS:
                    n = races if configuration in ("slippage", "close") else max(races//10, 1000)
                    found = race_row(source, k, configuration, delta, races=n)
                    yield dict(rule="race", **facts, races=n, configuration=configuration, delta=delta) | found
                yield dict(rule="precision", **facts, races=races, delta=delta) | precision_row(source, k, delta, trials=races)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--races", type=int, default=10_000, help="of each setting, a multiple of 1000")
    arguments.add_argument("--out", type=Path, default=RESULTS/"races.csv.gz")
    said = arguments.parse_args()
    table = []
    for row in rows(said.races):
        print(*[f"{value:.4g}" if isinstance(value, float) else value for value in row.values()], flush=True)
        table.append(row)
    columns = "rule source k configuration delta races right low high used fixed known intervals".split()
    packing = dict(method="gzip", mtime=0) if said.out.suffix == ".gz" else None
    pd.DataFrame(table)[columns].to_csv(said.out, index=False, float_format="%.5g", compression=packing)


if __name__ == "__main__": main()
