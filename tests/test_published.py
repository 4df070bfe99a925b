"""The paper's released runs, through the public functions: every number that is known about them.

The file is not part of the repository; these tests run if it lies beside the checkout. The same functions are
checked everywhere against closed forms on their own pages.
"""
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from al_cifar import analysis as an

CSV = Path(__file__).resolve().parents[2] / "shared" / "published" / "paper_runs.csv"
pytestmark = pytest.mark.skipif(not CSV.exists(), reason="the paper's released runs are not there")
STOCHASTIC = "U[0,0.15]"
RATES = ["0.0", "0.05", "0.1", "0.15"]


@pytest.fixture(scope="module")
def runs(): return pd.read_csv(CSV)


@pytest.fixture(scope="module")
def a(runs): return an.aulc(runs)


def pair(table, condition, x, y, column):
    """Entry of the pair x, y, with its sign turned if the table has them the other way round."""
    rows = table[(table["condition"] == condition) & table["a"].isin([x, y]) & table["b"].isin([x, y])]
    assert len(rows) == 1
    signed = column in ("diff", "d")
    return rows[column].iloc[0] * (-1 if signed and rows["a"].iloc[0] == y else 1)


def test_the_file_is_the_whole_grid(runs):
    assert len(runs) == 1500
    assert list(an.check_results(runs)["condition"].unique()) == [*RATES, STOCHASTIC]


@pytest.mark.parametrize("as_number", [False, True])
def test_condition_may_be_text_or_number(runs, as_number):
    fixed = runs[runs["condition"] != STOCHASTIC]
    if as_number: fixed = fixed.assign(condition=fixed["condition"].astype(float))
    assert list(an.anova(an.aulc(fixed))["condition"]) == RATES


def test_anova_of_the_stochastic_condition(a):
    row = an.anova(a).set_index("condition").loc[STOCHASTIC]
    assert (row.df_strategy, row.df_residual, round(row.F, 3)) == (2, 12, 12.746)
    assert (round(row.ss_strategy, 2), round(row.ss_residual, 2)) == (10329.65, 4862.35)
    assert (round(row.p, 6), round(row.eta_squared, 3)) == (0.001075, 0.680)


def test_anova_without_noise(a):
    row = an.anova(a).set_index("condition").loc["0.0"]
    assert (round(row.F, 3), round(row.p, 4)) == (9.769, 0.0030)


@pytest.mark.parametrize("x, y, p, digits, d", [("diversity", "random", 0.3612, 4, -0.814),
                                                ("diversity", "uncertainty", 0.0116, 4, 3.382),
                                                ("random", "uncertainty", 0.001, 3, 2.666)])
def test_tukey_and_cohens_d(a, x, y, p, digits, d):
    assert round(pair(an.tukey_hsd(a), STOCHASTIC, x, y, "p"), digits) == p
    assert round(pair(an.cohens_d(a), STOCHASTIC, x, y, "d"), 3) == d


def test_mean_areas_and_the_offset_of_the_printed_table(a):
    means = an.mean_aulc(a).query("condition == @STOCHASTIC").set_index("strategy")["mean"]
    ours = means[["random", "diversity", "uncertainty"]]
    assert list(ours.round(1)) == [785.6, 767.5, 723.1]
    assert np.allclose(np.array([834.4, 816.3, 771.9]) - ours, 48.8, atol=0.06)


def test_the_gap_does_not_grow_with_noise(a):
    p = an.paired_differences(a).query("strategy == 'uncertainty'").set_index("condition")["diff"]
    assert list((-p[RATES]).round(1)) == [55.0, 51.8, 52.1, 39.4]
    row = an.noise_interaction(a).set_index("strategy").loc["uncertainty"]
    sd = (row.ci_high - row.change) / an.interval_factor(5, "t") * np.sqrt(5)
    assert (round(row.change, 1), round(sd, 1), row.n) == (15.6, 18.9, 5)
    assert (round(row.t, 2), round(row.p, 2)) == (1.84, 0.14)


def test_accuracies_quoted_in_the_text(runs):
    c = an.learning_curves(runs).query("condition == '0.0'").set_index(["strategy", "n_labels"])["mean"] * 100
    assert (round(c["random", 200], 1), round(c["uncertainty", 200], 1)) == (24.5, 20.2)
    assert {round(c[s, 100], 1) for s in ("random", "diversity", "uncertainty")} == {14.8}
    assert [round(c[s, 2000], 1) for s in ("random", "diversity", "uncertainty")] == [51.1, 50.7, 48.2]


def test_early_differences(runs):
    early = runs.query("condition == '0.0' and n_labels in [200, 300, 400, 500] and strategy != 'diversity'")
    student = an.independent_t_test(early, equal_variances=True)["p"]
    assert [round(p, 2 if p > 0.01 else 3) for p in student] == [0.16, 0.41, 0.001, 0.16]
    assert list(an.independent_t_test(early)["p"].round(3)) == [0.177, 0.406, 0.002, 0.158]     # Welch's


def test_replications_for_80_per_cent_power():
    assert an.replications_needed(2.67, 1, paired=False) == 4
    assert an.anova_replications(0.68) == 3


@pytest.mark.filterwarnings("ignore:pairing did not help")
def test_variance_ratios(a):
    v = an.variance_reduction(a)
    ratios = [pair(v, c, "random", "uncertainty", "ratio") for c in [*RATES, STOCHASTIC]]
    assert [round(r, 2) for r in ratios] == [0.63, 1.82, 4.30, 0.86, 3.61]
    helps = [pair(v, c, "random", "uncertainty", "helps") for c in [*RATES, STOCHASTIC]]
    assert helps == [False, True, True, False, True]


def test_pairs_that_pairing_does_not_help_are_named(a):
    with pytest.warns(UserWarning, match=r"condition 0.0: random and uncertainty \(0.63\)"):
        an.variance_reduction(a)


def test_all_strategies_start_alike(runs):
    v = an.variance_reduction(runs[runs["n_labels"] == 100])
    assert v["note"].str.startswith("identical by construction").all()
