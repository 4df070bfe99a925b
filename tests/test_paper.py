"`paper.ipynb` through papermill: our results, a simulated study, the paper's released runs, and nonsense."
import re
import subprocess

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import PAPERMILL, ROOT
from scipy import stats
from test_published import CSV

from al_cifar.analysis import aulc, learning_curves, mean_aulc, toy_results, variance_reduction
from al_cifar.study.results import load_results, save_rounds, tidy_rounds
from al_cifar.study.tidy import ROUND_COLUMNS
from al_cifar.data import load_data
from al_cifar.loop import Config
from al_cifar.paper.printed import PAPER, PRINTED, RATES, STOCHASTIC
from al_cifar.paper.released import AREAS, RATIOS, RELEASED, SUMMARIES, area_of_means, read_published
from al_cifar.study import grid, run_study

NOTEBOOK, RESULTS, MORE = ROOT/"nbs/paper.ipynb", ROOT/"results/paper.csv.gz", ROOT/"results/replications.csv.gz"
FIGURES = {"figure1", "figure2", "areas", "differences", "correlation", "classes"}
OWN = "not supported by the paper's own runs"
ABSENT = "not in these results"
released = pytest.mark.skipif(not CSV.exists(), reason="the paper's released runs are not there")
THEIRS = {"uncertainty": "least_confidence", "diversity": "kmeans"}


def run(out, **parameters):
    "Exit code, everything a terminal would show, and what the executed notebook says."
    given = [str(a) for k, v in parameters.items() for a in ("-p", k, v)]
    done = subprocess.run([PAPERMILL, str(NOTEBOOK), str(out/"out.ipynb"), *given], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, cwd=out, timeout=300)
    outputs = [o for c in nbformat.read(out/"out.ipynb", 4).cells for o in c.get("outputs", ())]
    said = "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)
    return done.returncode, done.stdout + done.stderr, said


def claims(out):
    "The table it wrote, by key of PRINTED, checked to be whole."
    table = pd.read_csv(out/"runs/paper/claims.csv", dtype=str)
    assert not table.drop(columns="difference").isna().any(axis=None)
    keys = {(p.claim, p.where): key for key, p in PRINTED.items()}
    table.index = [keys[row.claim, row.where] for row in table.itertuples()]
    assert sorted(table.index) == sorted(PRINTED), "every claim once"
    return table


def complete(protocol_gain=0.0, replications=5):
    "A simulated study that has every condition, arm and measure."
    g, parts = np.random.default_rng(1), []
    main = toy_results(replications, conditions=(*RATES, "0.2"), rounds=20)
    main = main.replace({"condition": {"0.2": STOCHASTIC}})
    for protocol, crn in (("paper", True), ("paper", False), ("released", True)):
        part = main[main.condition == STOCHASTIC] if protocol == "released" else main
        gain = protocol_gain*(protocol == "released")
        parts.append(part.assign(accuracy=part.accuracy + gain, protocol=protocol, crn=crn))
    df = pd.concat(parts, ignore_index=True)
    runs = df.groupby(["condition", "strategy", "replication", "protocol", "crn"])
    skew = np.where(df.strategy == "least_confidence", 0.2, 0.1)
    first = (df.n_labels*skew).round().astype(int)
    rest = ((df.n_labels - first)//9 + (df.replication + 1)*(df.n_labels > 100))
    counts = [" ".join(map(str, [a, *[b]*9])) for a, b in zip(first, rest)]
    wrong = g.binomial(df.n_labels - 100, 0.08)
    assert runs.ngroups == (15 + 15 + 3)*replications
    seconds = {c: 1.0 for c in ROUND_COLUMNS if c.startswith("seconds")}
    return df.assign(dataset="simulated", class_counts=counts, n_wrong=wrong, **seconds)


def test_published_table_is_what_load_results_gives():
    "The results of this repository read as the tidy frame, hold no image, and stay small."
    rounds = tidy_rounds(RESULTS, mix=("protocol",))
    results = load_results(RESULTS, mix=("protocol",))
    assert results.equals(rounds[list(results)])
    assert set(ROUND_COLUMNS) <= set(rounds) and not {"queried", "answers", "initial_set"} & set(rounds)
    assert RESULTS.stat().st_size < 300_000
    counts = rounds.class_counts.str.split(expand=True).astype(int).sum(axis=1)
    assert (counts == rounds.n_labels).all() and (rounds.n_wrong <= rounds.n_labels).all()


def test_on_the_results_of_this_repository(tmp_path):
    code, seen, said = run(tmp_path, results=RESULTS, more_results=MORE)
    assert code == 0, seen
    table, here = claims(tmp_path), set(load_results(RESULTS, mix=("protocol",)).condition)
    for condition in (*RATES, STOCHASTIC):
        allowed = ("reproduced", "not reproduced") if condition in here else (ABSENT,)
        assert table.verdict[f"curves {condition}"] in allowed
    more = load_results(MORE)
    last = more.groupby(["condition", "strategy", "replication"]).n_labels.max()
    n = (last == 1000).groupby(["condition", "strategy"]).sum() + 5
    many = str(n.max()) if n.min() == n.max() else f"{n.min()} to {n.max()}"
    few_labels = ["first accuracy", "first difference", "early"]
    assert set(table.replications[few_labels]) == {many}
    assert set(table.replications.drop([*few_labels, "mechanism"])) == {"5"}
    for name in ("figure1", "figure2"):
        for end in ("svg", "png"): assert (tmp_path/f"runs/paper/{name}.{end}").stat().st_size > 1000
    assert "the paper's released runs: not given" in said and "nan" not in said.lower().split()


def test_a_complete_study_lacks_nothing(tmp_path):
    complete(protocol_gain=0.01, replications=6).to_csv(tmp_path/"rounds.csv", index=False)
    code, seen, said = run(tmp_path, results=tmp_path/"rounds.csv")
    assert code == 0, seen
    assert ABSENT not in said and "not here" not in said, said
    table = claims(tmp_path)
    assert not re.search(r"\bnan\b", said, re.I)
    assert set(table.verdict) <= {"reproduced", "not reproduced", OWN, "not tested"}
    # a limit for five numbers and six replications of either arm, and labels that a strategy does not save
    number, limit = r" +[\d.]+ ± [\d.]+", stats.t.isf(.025/5, 10)
    assert re.search(rf"random{number}{number} +[\d.]+ +{limit:.1f}\n", said)
    assert re.search(r"0\.15 least_confidence +6 +\d+ +\d+ +-\d+ +-\d+ +-\d+", said)
    # what the simulation was given: least confidence asks for one class twice as often
    assert table.verdict["skew"] == "reproduced"
    assert re.search(r"least_confidence +[78]\.\d", said), "wrong labels come by chance"
    assert {path.stem for path in (tmp_path/"runs/paper").glob("*.svg")} == FIGURES
    assert {path.stem for path in (tmp_path/"runs/paper").glob("*.png")} == FIGURES


def test_an_unfinished_study_says_what_it_lacks(tmp_path):
    df = complete()
    absent = (df.condition == "0.05") & (df.strategy == "kmeans")
    unfinished = (df.condition == "0.0") & (df.strategy == "random") & (df.n_labels > 900)
    df[~absent & ~unfinished & (df.condition != STOCHASTIC)].to_csv(tmp_path/"rounds.csv.gz", index=False)
    code, seen, said = run(tmp_path, results=tmp_path/"rounds.csv.gz")
    assert code == 0, seen
    table = claims(tmp_path)
    assert "5 unfinished runs are left out" in said
    assert table.ours["curves 0.05"] == f"{ABSENT}: condition 0.05 lacks 2 replications of kmeans"
    assert table.verdict[["curves 0.0", "curves 0.05", "anova"]].tolist() == [ABSENT]*3
    assert table.verdict["curves 0.1"] != ABSENT
    assert table.verdict["end"] == OWN and table.agrees["end"] == "-"


def test_without_a_main_arm(tmp_path):
    df = complete()
    df[~df.crn].to_csv(tmp_path/"rounds.csv", index=False)
    code, seen, said = run(tmp_path, results=tmp_path/"rounds.csv")
    assert code == 0, seen
    assert "main arm: not in these results" in said
    assert set(claims(tmp_path).verdict) == {ABSENT, OWN, "not tested"}


# What is known about the released runs, in test_published.py as numbers and here as verdicts on themselves.
UNSUPPORTED = ["settings", "end", "first accuracy", "areas", "replications", "pairing", "early", "correlation",
               "cascade"]
SUPPORTED = [*(f"curves {c}" for c in (*RATES, STOCHASTIC)), "start", "first difference", "gaps", "anova",
             "effects", "random - least_confidence", "kmeans - least_confidence", "random - kmeans"]
KNOWN = {**dict.fromkeys(UNSUPPORTED, OWN), **dict.fromkeys(SUPPORTED, "reproduced"),
         "skew": ABSENT, "mechanism": "not tested"}


@released
def test_released_runs_judge_themselves(tmp_path):
    code, seen, said = run(tmp_path, results=CSV, published_csv=CSV)
    assert code == 0, seen
    table = claims(tmp_path)
    assert table.verdict.to_dict() == KNOWN
    same = table.drop(["settings", "skew"])
    assert same.ours.equals(same["in the released runs"])
    numbers = re.findall(r"from the released runs: ([^;]*)", "; ".join(table.difference.dropna()))
    assert len(numbers) == 17 and set(re.findall(r"[-+]\d[\d.]*", " ".join(numbers))) == {"+0.0"}
    # the same typed in: what a reader without the CSV sees
    code, seen, _ = run(tmp_path, results=CSV)
    assert code == 0, seen
    typed = claims(tmp_path)
    assert typed.verdict.to_dict() == KNOWN
    assert typed["in the released runs"].equals(table["in the released runs"])


@released
@pytest.mark.filterwarnings("ignore:pairing did not help")
def test_typed_numbers_of_the_released_runs():
    df = pd.read_csv(CSV).replace({"strategy": THEIRS})
    m = mean_aulc(aulc(df)).set_index(["condition", "strategy"])
    for c in (*RATES, STOCHASTIC):
        for s, (value, se, n) in RELEASED[f"curves {c}"].items():
            assert np.allclose([value, se, n], [m["mean"][c, s]/19, m["sd"][c, s]/19/5**0.5, 5], rtol=1e-3)
    first = df[(df.condition == STOCHASTIC) & (df.n_labels == 100)].groupby("replication").accuracy.mean()
    assert round(100*first.mean(), 1) == 18.9
    pair = variance_reduction(aulc(df)).query("a == 'random' and b == 'least_confidence'")
    ratios = {v.condition: f"{v.ratio:.2f} ({v.ci_low:.2f} to {v.ci_high:.2f})" for v in pair.itertuples()}
    assert RATIOS == ratios


def test_a_users_own_run_files(tmp_path):
    "Real runs, on digits, in two arms: a folder of run files is as good as a table made of it."
    base = Config(dataset="digits", initial=100, budget=300, batch=100, epochs=1, epsilon=0.1)
    grids = [grid(base, strategy=PAPER, replication=range(2), crn=[crn]) for crn in (True, False)]
    run_study(sum(grids, []), tmp_path/"study", load_data("digits"), progress=False)
    save_rounds(tidy_rounds(tmp_path/"study"), tmp_path/"rounds.csv.gz")
    tables = []
    for results in (tmp_path/"study", tmp_path/"rounds.csv.gz"):
        code, seen, said = run(tmp_path, results=results)
        assert code == 0, seen
        assert "main arm: 6 runs on digits, learner epochs=1, conditions 0.1" in said
        assert "crn=False: 6 runs on digits" in said
        tables.append(claims(tmp_path))
    assert tables[0].equals(tables[1])
    assert "100 to 300 labels, at least 2 replications" in tables[0].ours["settings"]
    assert tables[0].ours["correlation"].startswith(ABSENT) and tables[0].verdict["skew"] != ABSENT


def summaries(folder, df):
    "The files that the authors' repository has, made from the runs `df`."
    theirs, curves = {ours: name for name, ours in THEIRS.items()}, learning_curves(df, "normal")
    for c, name in SUMMARIES.items():
        t = curves[curves.condition == c].replace(theirs)
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(dict(strategy=t.strategy, labels=t.n_labels, accuracy_mean=t["mean"],
                          accuracy_ci95=t.ci_high - t["mean"])).to_csv(folder/name, index=False)
    a = aulc(df[df.condition != STOCHASTIC]).replace(theirs)
    a["epsilon"] = 100*a.condition.astype(float)
    a.drop(columns="condition").to_csv(folder/AREAS, index=False)


@released
def test_summaries_stand_for_the_runs(tmp_path):
    df = pd.read_csv(CSV).replace({"strategy": THEIRS})
    summaries(tmp_path/"theirs", df)
    published = read_published(tmp_path/"theirs")
    pd.testing.assert_frame_equal(published.curves, learning_curves(df, "normal"), check_exact=False)
    pd.testing.assert_frame_equal(published.areas, aulc(df[df.condition != STOCHASTIC]), check_exact=False)
    means = area_of_means(published.curves).set_index(["condition", "strategy"])["mean"]
    drawn = means[STOCHASTIC].round(1).to_dict()
    assert drawn == {"random": 785.6, "least_confidence": 723.1, "kmeans": 767.5}
    code, seen, said = run(tmp_path, results=RESULTS, published_csv=tmp_path/"theirs")
    assert code == 0, seen
    assert "the paper's released runs: curves only" in said and "Dashed" in said
    assert claims(tmp_path).verdict["areas"] == OWN


@pytest.mark.parametrize("bad,message", [
    (dict(result="x"), "unknown parameter 'result'; there are: results, published_csv"),
    (dict(results="nowhere.csv"), "no results at nowhere.csv"),
    (dict(results="other.csv"), "other.csv lacks the column(s) condition, strategy"),
    (dict(results=RESULTS, published_csv="."), "AL_Results/summary_e0.csv")])
def test_nonsense_ends_with_one_message(tmp_path, bad, message):
    (tmp_path/"other.csv").write_text("labels,value\n1,2\n")
    code, seen, _ = run(tmp_path, **bad)
    assert code != 0 and re.findall("^Error: .*", seen, re.M) and message in seen, seen
    assert "Traceback" not in seen and not (tmp_path/"runs").exists(), seen
