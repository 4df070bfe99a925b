"Crossings, regimes of the pool, folders and torchvision's data sets, deeper learners and a user's own."
import numpy as np
import pandas as pd
import pytest

from al_cifar.analysis.crossover import crossover


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
