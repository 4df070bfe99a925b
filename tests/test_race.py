"""Races: the rule against a plain reading of the paper, and the same race on run files, whatever happens.

Kim and Nelson, A fully sequential procedure for indifference-zone selection in simulation, ACM TOMACS 11 (2001) 251.
"""
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from al_cifar.analysis.race_trials import normal_source, race_row, share
from al_cifar.analysis.selection import anytime_half_width, eliminate, fixed_replications, pair_variances, precise_after
from al_cifar.analysis.verdicts import judge, judge_precision, precise_differences, standings
from al_cifar.data.sources import load_data
from al_cifar.loop.config import TOY
from al_cifar.study.race import race, until_precise


# The rule

def plain_race(x, delta, alpha, n0):
    "The paper's steps, one number at a time: winner, and when each was dropped."
    k = len(x[0])
    eta = .5*((2*alpha/(k - 1))**(-2/(n0 - 1)) - 1)
    h2 = 2*eta*(n0 - 1)

    def mean(i, r): return sum(row[i] for row in x[:r])/r

    def s2(i, l):
        centre = mean(i, n0) - mean(l, n0)
        return sum((row[i] - row[l] - centre)**2 for row in x[:n0])/(n0 - 1)

    variances = {(i, l): s2(i, l) for i in range(k) for l in range(k)}
    still, dropped, r = set(range(k)), {}, n0
    while len(still) > 1 and r <= len(x):
        if r > max(h2*variances[i, l]/delta**2 for i in still for l in still):  # r = max N_i + 1: the best mean
            best = max(still, key=lambda i: mean(i, r))
            dropped |= {i: r for i in still if i != best}
            still = {best}
            break
        def lag(i, l): return max(0, delta/(2*r)*(h2*variances[i, l]/delta**2 - r))
        out = {i for i in still if any(mean(i, r) < mean(l, r) - lag(i, l) for l in still - {i})}
        dropped |= {i: r for i in out}
        still -= out
        r += 1
    return still, dropped


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([.4, .8, 2.]), st.sampled_from([.01, .05, .3]),
       st.sampled_from([2, 3, 6, 10]))
def test_as_the_paper_says(seed, k, delta, alpha, n0):
    g = np.random.default_rng(seed)
    x = g.standard_normal((60, 1)) + g.uniform(.2, 1.5, k)*g.standard_normal((60, k)) + g.uniform(0, 1, k)
    still, dropped = plain_race(x.tolist(), delta, alpha, n0)
    steps = list(eliminate(x, delta, alpha, n0))
    assert set(steps[-1][1]) == still
    assert {i: r for r, _, beaten in steps for i in beaten} == dropped


def test_known_constants():
    "h^2 from the closed form with n0 = 10, k = 2, alpha = .05: 9 (0.1^(-2/9) - 1); Stein's two-stage t for two."
    x = np.random.default_rng(0).standard_normal((10, 2))
    s2 = (x[:, 0] - x[:, 1]).var(ddof=1)
    end = int(np.ceil(9*(.1**(-2/9) - 1)*s2/.5**2))
    level = np.vstack([x, np.full((end - 10, 2), x.mean(axis=0))])  # nobody gains on the other
    level[:, 1] += (level[:, 0] - level[:, 1]).mean() - 1e-9       # behind by a hair: only the end decides
    assert [r for r, left, _ in eliminate(level, .5) if len(left) == 1] == [end]
    assert fixed_replications(pair_variances(x), .5) == max(10, np.ceil(1.8331129**2*s2/.25))


def areas_of(x, names="abcdefgh"): return pd.DataFrame(x, columns=list(names[:x.shape[1]]))


def test_more_rows_and_gaps_change_nothing():
    g = np.random.default_rng(3)
    x = g.standard_normal((80, 4)) + [0, .3, .6, 1]
    whole = judge(areas_of(x), .6)
    assert whole.decided
    for rows in range(10, 80, 7):
        part = judge(areas_of(x[:rows]), .6)
        assert part.drops == {s: d for s, d in whole.drops.items() if d[0] <= rows}
    gaps = x.copy()
    for s, (n, _) in whole.drops.items(): gaps[n:, "abcd".index(s)] = np.nan
    again = judge(areas_of(gaps), .6)
    assert standings(again).equals(standings(whole)) and again.areas.equals(whole.areas)


def test_twins_end_together():
    "Strategies that do the same in every replication: the first one wins, and the race ends."
    x = np.random.default_rng(0).standard_normal((40, 1)) + np.zeros((40, 3))
    race = judge(areas_of(x), .5)
    assert (race.winner, race.replications, race.decided) == ("a", 10, True)


def test_the_order_of_strategies_does_not_matter():
    g = np.random.default_rng(5)
    areas = areas_of(g.standard_normal((90, 5)) + np.arange(5)/3)
    race, other = judge(areas, .5), judge(areas[list("ecabd")], .5)
    assert race.winner == other.winner and {s: d[0] for s, d in race.drops.items()} == {s: d[0] for s, d in other.drops.items()}


def test_the_guarantee():
    "2,000 races in the hardest configuration: above 1 - alpha, as far as 2,000 races can tell; a coarse check."
    for rho, k in ((0, 3), (.5, 10)):
        row = race_row(normal_source(k, rho), k, "slippage", .5, races=2000)
        assert row["high"] > .95 and row["used"] < row["known"] < row["fixed"], row
        assert row["intervals"] > .95


def test_anytime_intervals_narrow():
    half = anytime_half_width(1., np.array([10, 20, 40, 80, 160, 640]), .025)
    assert (np.diff(half) < 0).all() and half[0] < 1.5 and half[-1] < .3


def test_share_is_clopper_pearson():
    low, high = stats.beta.ppf([.025, .975], [95, 96], [6, 5])
    assert share(95, 100) == pytest.approx(dict(right=.95, low=low, high=high))


def test_precise_intervals_are_scipys():
    g = np.random.default_rng(1)
    areas = areas_of(g.standard_normal((200, 3)))
    found = judge_precision(areas, .4, "b", alpha=.1)
    for row in precise_differences(found).itertuples():
        t = stats.ttest_rel(areas[row.strategy][:found.replications], areas.b[:found.replications])
        interval = t.confidence_interval(1 - .1/2)
        assert (row.ci_low, row.ci_high) == pytest.approx((interval.low, interval.high))
        assert row.half_width <= .4
    d = areas[["a", "c"]].sub(areas.b, axis=0).to_numpy()
    assert found.replications == precise_after(d, .4, .1) and precise_after(d[:found.replications - 1], .4, .1) is None


# On run files

BASE = replace(TOY, budget=40, epochs=1)
NAMES = ["random", "entropy", "kmeans"]
RULE = dict(delta=.8, first=4, most=7, progress=False)


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    return race(BASE, NAMES, tmp_path_factory.mktemp("race"), data=digits, **RULE)


SCRIPT = """
from dataclasses import replace
from al_cifar.loop.config import TOY
from al_cifar.study.race import race
race(replace(TOY, budget=40, epochs=1), ["random", "entropy", "kmeans"], {out!r}, delta=.8, first=4, most=7)
"""


def test_killed_and_resumed(undisturbed, digits, tmp_path):
    "SIGKILL when some runs are there; the same call finishes the race: the same one, and no file is written anew."
    process = subprocess.Popen([sys.executable, "-c", SCRIPT.format(out=str(tmp_path))], cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("*.jsonl"))) < 4 and process.poll() is None: time.sleep(.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert 4 <= len(there) < 12
    again = race(BASE, NAMES, tmp_path, data=digits, **RULE)
    assert again.areas.equals(undisturbed.areas) and standings(again).equals(standings(undisturbed))
    for path, text in there.items(): assert path.read_bytes().startswith(text[:text.rfind(b"\n") + 1])


def test_extended(undisturbed, digits, tmp_path):
    "Another strategy and another delta use what is there; a race of two decided within its first replications."
    seen = []
    rule = RULE | dict(most=4, data=digits)
    race(BASE, NAMES[:2], tmp_path, **rule)
    def note(record, config): seen.append((config.strategy, config.replication))
    more = race(BASE, NAMES, tmp_path, **rule, on_round=note)
    assert {*seen} == {("kmeans", r) for r in range(4)}
    pd.testing.assert_frame_equal(more.areas, undisturbed.areas[:4])
    seen.clear()
    race(BASE, NAMES, tmp_path, **rule | dict(delta=.1), on_round=note)
    found = until_precise(BASE, NAMES[1:], tmp_path, 50, first=4, data=digits, progress=False, on_round=note)
    assert not seen and found.reached and list(found.areas) == ["random", "entropy", "kmeans"]


@pytest.mark.slow
def test_on_dask(undisturbed, digits, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with local as cluster, distributed.Client(cluster) as client:
        again = race(BASE, NAMES, tmp_path, data=digits, executor=client.get_executor(), **RULE)
    assert standings(again).equals(standings(undisturbed))
