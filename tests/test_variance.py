"""Do the intervals of variance components cover, and do plans keep what they promise? Studies with known components.

The short version runs 200 studies through the public functions; `pytest -n 0 -m slow -s tests/test_variance.py` runs 5,000.
"""
import numpy as np
import pandas as pd
import pytest
from al_cifar import analysis as an

SHORT, LONG = 200, 5_000
studies = pytest.mark.parametrize("studies", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])


def areas(studies, R, m, between, within, selector=0.0, seed=0):
    """AULC of `studies` studies, a condition each, of two strategies that share a world; components of the difference."""
    g = np.random.default_rng(seed)
    x = 10*g.standard_normal((studies, 1, R, 1)) + np.sqrt(between/2)*g.standard_normal((studies, 2, R, 1))
    x = x + np.sqrt(within/2)*g.standard_normal((studies, 2, R, m))
    x[:, 0, :, 0] += selector
    c, s, r, e = (i.ravel() for i in np.indices(x.shape))
    return pd.DataFrame(dict(condition=c.astype(float), strategy=np.array(["random", "kmeans"])[s], replication=r,
                             evaluator=e, aulc=x.ravel()))


def near(rate, target, studies, margin=0.015):
    """Within the margin for the long version, within 4 standard errors more for the short one."""
    print(f"rate {rate:.4f}, nominal {target}, {studies} studies")
    slack = margin if studies == LONG else margin + 4*np.sqrt(target*(1 - target)/studies)
    assert abs(rate - target) <= slack, f"{rate:.4f} is not {target} +- {slack:.3f}"


def coverage(table, **truth):
    """Share of the rows whose interval holds the truth, by name."""
    return {k: ((table[f"{k}_low"] <= v) & (v <= table[f"{k}_high"])).mean() for k, v in truth.items()}


@studies
@pytest.mark.parametrize("R, m", [(5, 2), (5, 3), (20, 3)])
@pytest.mark.parametrize("between", [0.05, 0.5])
def test_intervals_cover(studies, R, m, between):
    found = an.variance_components(areas(studies, R, m, between, 1 - between, selector=3.0))
    truth = dict(var_between=between, var_within=1 - between, icc=between, selector=3.0)
    for name, rate in coverage(found, **truth).items():
        print(name, end=": ")
        near(rate, 0.95, studies)
    assert abs(found["var_between"].mean() - between) < 4*found["var_between"].std()/np.sqrt(studies)
    assert abs(found["var_within"].mean() - (1 - between)) < 4*found["var_within"].std()/np.sqrt(studies)


@studies
def test_a_component_of_zero_is_covered_at_least_as_often(studies):
    found = an.variance_components(areas(studies, 5, 3, 0.0, 1.0, seed=1))
    near(coverage(found, var_between=0.0)["var_between"], 0.975, studies)
    assert (found["var_between"] < 0).mean() > 0.4          # reported as they are, or the mean would be too large


@studies
def test_interval_of_the_bound_covers(studies):
    costs = pd.DataFrame(dict(strategy=["random", "kmeans"], fixed=[0.0, 20.0], evaluator=[10.0, 10.0]))
    planned = an.plan(an.variance_components(areas(studies, 5, 3, 0.1, 0.9, seed=2)), costs, 4000)    # 100 replications exactly
    near(coverage(planned, bound=an.gain_bound(0.1, 1.0))["bound"], 0.95, studies)
    m = planned["evaluators"]
    truth = planned["replications"]/planned["replications_1"]/(0.1 + 0.9/m)
    covers = (planned["factor_low"] <= truth*(1 + 1e-9)) & (truth <= planned["factor_high"]*(1 + 1e-9))
    print("factor at the planned design")
    assert covers.mean() >= 0.95 - (0.015 if studies == LONG else 0.07)     # m = 1 always covers
    assert (planned["factor"] <= planned["bound"]*(1 + 1e-9)).all()


@studies
def test_mean_differences_have_the_variance_that_the_plan_promises(studies):
    "From the components in truth, simulated studies of the planned size."
    truth = pd.DataFrame([dict(condition="0.1", a="random", b="kmeans", var_between=0.1, var_within=0.9, icc_low=0, icc_high=1)])
    costs = pd.DataFrame(dict(strategy=["random", "kmeans"], fixed=[0.0, 30.0], evaluator=[10.0, 10.0]))
    row = an.plan(truth, costs, 700).iloc[0]
    assert (row["replications"], row["evaluators"]) != (row["replications_1"], 1)
    for R, m, variance in ((row["replications"], row["evaluators"], row["variance"]), (row["replications_1"], 1, row["variance_1"])):
        a = areas(studies, int(R), int(m), 0.1, 0.9, seed=3)
        means = a.groupby(["condition", "strategy"])["aulc"].mean().unstack()
        ratio = (means["random"] - means["kmeans"]).var()/variance
        print(f"R={R}, m={m}: variance {ratio:.3f} times what was promised")
        assert abs(ratio - 1) < 4*np.sqrt(2/(studies - 1))


def test_stored_tables_without_evaluators_are_refused():
    means = areas(1, 3, 2, 0.1, 0.9).groupby(["condition", "strategy", "replication"], as_index=False)["aulc"].mean()
    with pytest.raises(ValueError, match="lacks the column 'evaluator'"): an.variance_components(means)
    with pytest.raises(ValueError, match="lacks the column 'evaluator'"): an.evaluator_areas(means)
