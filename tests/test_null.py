"""Do the tests reject, and the intervals cover, as often as they say? Simulated studies with a known truth.

Each study is a condition of one frame, so that the public functions themselves are put to the test. The short version
runs 100 studies; `pytest -n 0 -m slow -s` runs 10,000 (some minutes) and prints the rates that the documentation states.
"""
import warnings
import numpy as np
import pandas as pd
import pytest
from al_cifar import analysis as an

STRATEGIES = ("random", "least_confidence", "kmeans")
SHORT, LONG = 100, 10_000
studies = pytest.mark.parametrize("studies", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])


def areas(studies, replications, strategies=3, effect=0.0, shared=1.0, own=0.5, seed=1):
    """AULC of `studies` studies, one condition each; `effect` is that of the second strategy; normal components."""
    g = np.random.default_rng(seed)
    x = shared * g.standard_normal((studies, 1, replications))
    x = x + own * g.standard_normal((studies, strategies, replications))
    x[:, 1:2] += effect
    s, k, r = (i.ravel() for i in np.indices(x.shape))
    return pd.DataFrame(dict(condition=s.astype(float), strategy=np.array(STRATEGIES)[k], replication=r,
                             aulc=x.ravel()))


def curves(studies, replications, rounds=20, correlation=0.5, seed=2, strategies=1):
    """Accuracies about .5 in which two rounds correlate; nothing differs between strategies."""
    g = np.random.default_rng(seed)
    shape = (studies, strategies, replications)
    z = np.sqrt(correlation) * g.standard_normal((*shape, 1))
    z = z + np.sqrt(1 - correlation) * g.standard_normal((*shape, rounds))
    s, k, r, n = (i.ravel() for i in np.indices(z.shape))
    return pd.DataFrame(dict(condition=s.astype(float), strategy=np.array(STRATEGIES)[k], replication=r,
                             n_labels=100 * (n + 1), accuracy=0.5 + 0.01 * z.ravel()))


def near(rate, target, studies, margin=0.01):
    """Within the stated margin for the long version, within 4 standard errors for the short one."""
    print(f"rate {rate:.4f}, nominal {target}, {studies} studies")
    slack = margin if studies == LONG else margin + 4 * np.sqrt(target * (1 - target) / studies)
    assert abs(rate - target) <= slack, f"{rate:.4f} is not {target} +- {slack:.3f}"


def covers(table, truth):
    """Does each interval of a table hold the truth?"""
    return (table["ci_low"] <= truth) & (table["ci_high"] >= truth)


@studies
@pytest.mark.parametrize("R", [5, 20])
def test_paired_t_rejects_at_its_level_and_covers(studies, R):
    p = an.paired_differences(areas(studies, R, strategies=2))
    near((p.p < 0.05).mean(), 0.05, studies)
    near(covers(p, 0).mean(), 0.95, studies)


@studies
def test_wilcoxon_at_20_replications(studies):
    p = an.paired_differences(areas(studies, 20, strategies=2, seed=3))
    near((p.p_wilcoxon < 0.05).mean(), 0.05, studies)


def test_wilcoxon_cannot_reject_with_5_replications():
    p = an.paired_differences(areas(SHORT, 5, strategies=2, effect=100))
    assert p.p_wilcoxon.min() == 0.0625


@studies
def test_holm_keeps_the_family_wise_rate(studies):
    p = an.paired_differences(areas(min(studies, 4000), 5, seed=4))
    rate = (p.p_holm < 0.05).groupby(p.condition).any().mean()
    print(f"rate {rate:.4f}")
    assert rate <= 0.05 + (0.01 if studies == LONG else 0.09)


@studies
def test_blocked_F_rejects_at_its_level(studies):
    b = an.blocked_anova(areas(studies, 5, seed=5))
    near((b.p < 0.05).mean(), 0.05, studies)
    print(f"Greenhouse-Geisser {(b.p_gg < 0.05).mean():.4f}")
    assert (b.p_gg < 0.05).mean() <= (b.p < 0.05).mean()        # conservative where sphericity holds


@studies
def test_one_way_anova_is_exact_for_independent_runs_and_timid_for_paired_ones(studies):
    few = min(studies, 4000)
    near((an.anova(areas(few, 5, shared=0, seed=6)).p < 0.05).mean(), 0.05, few)
    paired = (an.anova(areas(min(studies, 1000), 5, seed=6)).p < 0.05).mean()
    print(f"with pairing {paired:.4f}")
    assert paired < 0.02        # the shared part sits in its error term


@studies
def test_intervals_of_the_mean_t_covers_and_the_papers_does_not(studies):
    a = areas(studies, 5, strategies=2, seed=8).query("strategy == 'random'")
    near(covers(an.mean_aulc(a, "t"), 0).mean(), 0.95, studies)
    near(covers(an.mean_aulc(a, "normal"), 0).mean(), 0.878, studies)
    df = curves(studies // 20, 5, correlation=0.0, seed=9)       # 20 independent rounds a study
    near(covers(an.learning_curves(df, "t"), 0.5).mean(), 0.95, studies)
    near(covers(an.learning_curves(df, "normal"), 0.5).mean(), 0.878, studies)


@studies
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_max_t_bands_cover_whole_curves_with_5_replications(studies, correlation):
    bands = an.curve_bands(curves(studies, 5, correlation=correlation), draws=2000)
    # strongly correlated rounds make them a little wide
    near(covers(bands, 0.5).groupby(bands.condition).all().mean(), 0.95, studies, 0.015 if correlation == 0.9 else 0.01)


@studies
def test_max_t_bands_of_differences(studies):
    few = max(SHORT, studies // 5)           # slower: one pairing for each round
    bands = an.difference_bands(curves(few, 5, rounds=6, strategies=2), draws=2000)
    near(covers(bands, 0).groupby(bands.condition).all().mean(), 0.95, few, 0.02)


@studies
def test_bootstrap_bands_at_20_replications_and_their_failure_at_5(studies):
    few = max(SHORT, studies // 10)
    bands = an.curve_bands(curves(few, 20), method="bootstrap", draws=2000)
    rate = covers(bands, 0.5).groupby(bands.condition).all().mean()
    print(f"bootstrap max-t, R=20: {rate:.4f}")
    assert rate >= 0.93
    bands = an.curve_bands(curves(few, 5), method="bootstrap", draws=2000)
    rate = covers(bands, 0.5).groupby(bands.condition).all().mean()
    print(f"bootstrap max-t, R=5: {rate:.4f}, median factor {bands.factor.median():.1f}")
    assert rate > 0.98          # far too wide


@studies
def test_bootstrap_intervals(studies):
    def rate(R, method):
        a = areas(studies if method == "studentized" else min(studies, 4000), R, strategies=2, seed=10)
        return covers(an.bootstrap_differences(a, method=method, draws=2000), 0).mean()
    near(rate(20, "studentized"), 0.95, studies)
    near(rate(20, "percentile"), 0.93, studies, 0.015)
    near(rate(5, "percentile"), 0.835, studies, 0.015)
    near(rate(5, "studentized"), 0.95, studies)


@studies
@pytest.mark.parametrize("R", [5, 20])
def test_variance_ratio_and_correlation_intervals(studies, R):
    few = min(studies, 5000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        v = an.variance_reduction(areas(few, R, strategies=2, seed=11))
    near(covers(v, 5.0).mean(), 0.95, few)              # shared 1, own .25: r = .8, ratio 5
    near(((v.r_low <= 0.8) & (v.r_high >= 0.8)).mean(), 0.95, few, 0.015)


@studies
def test_equivalence_at_the_margin(studies):
    few = min(studies, 5000)
    e = an.equivalence(areas(few, 5, strategies=2, effect=2.0, seed=12), margin=2.0)
    near(e.equivalent.mean(), 0.05, few)                # the worst case: exactly as far apart as the margin


@studies
@pytest.mark.parametrize("R, effect", [(5, 1.0), (5, 2.0), (20, 0.5)])
def test_power_is_what_the_power_function_says(studies, R, effect):
    sd = 0.5 * np.sqrt(2)
    few = min(studies, 4000)
    p = an.paired_differences(areas(few, R, strategies=2, effect=effect, seed=13))
    near((p.p < 0.05).mean(), an.t_test_power(effect, sd, R), few, 0.03)


@studies
def test_unpaired_power_and_planned_replications(studies):
    n = an.replications_needed(1.0, 0.5, paired=False)
    few = min(studies, 4000)
    t = an.independent_t_test(areas(few, n, strategies=2, effect=1.0, shared=0, seed=14), equal_variances=True)
    near((t.p < 0.05).mean(), an.t_test_power(1.0, 0.5, n, paired=False), few, 0.03)


@studies
def test_interaction_contrast(studies):
    few = max(SHORT, studies // 10)
    g, p = np.random.default_rng(15), []
    for _ in range(few):
        x = g.standard_normal((4, 2, 5)) + g.standard_normal((1, 1, 5))
        e, k, r = (i.ravel() for i in np.indices(x.shape))
        a = pd.DataFrame(dict(condition=0.05 * e, strategy=np.array(STRATEGIES)[k], replication=r,
                              aulc=x.ravel()))
        p.append(an.noise_interaction(a, contrast="slope").p[0])
    near(np.mean(np.array(p) < 0.05), 0.05, few, 0.02)
