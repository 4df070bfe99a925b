#!/usr/bin/env python3
"""The published results as one interactive page: curves, differences and tables to choose from.

    python tools/explorer.py [explore.html]
"""
import argparse
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from al_cifar.analysis.explore import explore
from al_cifar.study.results import load_results
from al_cifar.study.tables import published

RESULTS = ROOT/"results"


def whole(runs):
    "Rows of the runs that came to the end of their table."
    ends = runs.groupby(["condition", "strategy", "replication"]).n_labels.transform("max")
    return runs[ends == runs.n_labels.max()]


def more_strategies():
    "All strategies of the study to 1,000 labels, in the replications that the later ones have."
    later = load_results(RESULTS/"strategies.csv.gz")
    first = published("replications")
    return pd.concat([first[first.replication.isin(later.replication)], later], ignore_index=True)


PARTS = {"the paper's network, 2,000 labels": published, "more strategies, 1,000 labels": more_strategies}


def everything():
    "All parts as one frame; the column `learner` names the part."
    return pd.concat([whole(part()).assign(learner=name) for name, part in PARTS.items()], ignore_index=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", default="explore.html")
    path = explore(everything(), parser.parse_args().path, "Does active learning pay when annotators err?")
    print(f"{path}: {path.stat().st_size/1e6:.2f} MB")


if __name__ == "__main__": main()
