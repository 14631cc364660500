"""The ledger: files, conditions, verdicts, cards and intervals."""

import json
import math
import re
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit import claims
from paperkit.claims import Condition, Interval

FILE = """
abstract:
  - {id: a1, says: The method is exact.}
  - {id: a2, says: It is fast on large machines.}
claims:
  - id: c1-exact
    covers: [a1]
    statement: The `score` is exact & <simple>.
    source: abstract; Theorem 1
    paper: exact
    measure: largest relative error
    passes: "< 1e-3"
    scope: as stated
    kind: live
  - id: c2-gain
    covers: [a1]
    statement: The gain is positive.
    source: ours
    paper: 0.25
    measure: mean gain over ten seeds
    passes: "value < 9 and lower > 0"
    scope: "smaller scale: ten seeds"
    kind: stored
  - id: c3-twice
    statement: It doubles.
    source: ours
    paper: null
    measure: ratio
    passes: "> 2"
    scope: "shown instead: a toy"
    kind: live
    expect: not supported
    because: The toy is too small.
  - id: c4-look
    statement: It looks good.
    source: ours
    paper: null
    measure: share
    passes: reported
    scope: as stated
    kind: live
  - id: c5-large
    covers: [a2]
    statement: It is fast on large machines.
    source: abstract
    scope: "not tested: no large machine"
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(root, text, chapter="toy"):
    path = root / "notebooks" / chapter / "claims.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.fixture
def ledger(root):
    write(root, FILE)
    return claims.chapter("toy")


def gain(low=0.1, high=0.4, estimate=0.25):
    return Interval(estimate, low, high, 0.95, 10, "by hand")


# ---------------------------------------------------------------------------------------- files


def test_a_good_file_is_read_completely(root):
    file = claims.read(write(root, FILE))
    assert file.chapter == "toy"
    assert [s.id for s in file.abstract] == ["a1", "a2"]
    assert [c.id for c in file.claims] == ["c1-exact", "c2-gain", "c3-twice", "c4-look", "c5-large"]
    exact, gained, twice, look, large = file.claims
    assert (exact.kind, exact.expected, exact.covers) == ("live", True, ("a1",))
    assert gained.paper == 0.25
    assert twice.expected is False
    assert twice.because == "The toy is too small."
    assert look.expected is None
    assert look.tested
    assert not large.tested
    assert large.kind is None
    assert exact.anchor == "claim-toy-c1-exact"
    assert claims.chapters() == ["toy"]


def test_every_chapter_of_the_book_has_a_valid_file():
    # Reading checks ids, conditions, scopes, and that each sentence of the abstract is covered.
    for name in claims.chapters():
        assert claims.chapter(name).file.claims


FAULTS = {
    "abstract: must be a list": ("abstract:\n  - {id: a1", "summary:\n  - {id: a1"),
    "unknown key 'summary'": ("abstract:\n  - {id: a1", "summary:\n  - {id: a1"),
    "got 'A 1'": ("{id: a1, says", "{id: A 1, says"),
    "says must be a sentence": ("says: The method is exact.", "says: 3"),
    "the id 'a2' is used 2 times": ("{id: a1, says", "{id: a2, says"),
    "the id 'c1-exact' is used 2 times": ("id: c2-gain", "id: c1-exact"),
    "abstract a2: no row covers it": ("covers: [a2]", "covers: [a1]"),
    "covers 'a9'": ("covers: [a2]", "covers: [a9, a2]"),
    "covers must be a list": ("covers: [a2]", "covers: a2"),
    "so covers must name a sentence": ("    covers: [a2]\n", ""),
    "got 'C1_exact'": ("id: c1-exact", "id: C1_exact"),
    "statement must be text": ("    statement: It doubles.\n", ""),
    "source must be text": ("source: abstract; Theorem 1", "source: 3"),
    "measure must be text": ("measure: ratio", "measure:"),
    "claim c1-exact: paper must be": ("paper: exact", "paper: yes"),
    "paper must be finite": ("paper: exact", "paper: .nan"),
    "'<< 1e-3' is not a comparison": ('"< 1e-3"', '"<< 1e-3"'),
    "passes must be a condition": ('"< 1e-3"', "3"),
    "claim c2-gain: scope must be": ('"smaller scale: ten seeds"', "smaller"),
    "claim c3-twice: scope must be": ('"shown instead: a toy"', '"shown instead:"'),
    "claim c5-large: scope must be": ('"not tested: no large machine"', "not tested"),
    "kind must be 'live' or 'stored'": ("kind: stored", "kind: fast"),
    "expect can only be": ("expect: not supported", "expect: fails"),
    "needs 'because'": ("    because: The toy is too small.\n", ""),
    "because must be text": ("because: The toy is too small.", "because: 3"),
    "goes with 'expect": ("    expect: not supported\n", ""),
    "so it has no 'expect'": ('"> 2"', "reported"),
    "so it cannot have 'passes'": ('no large machine"', 'no large machine"\n    passes: "> 1"'),
    "so it cannot have 'kind'": ('no large machine"', 'no large machine"\n    kind: live'),
    "did you mean 'statement'": ("statement: It doubles.", "statment: It doubles."),
    "the key 'kind' is given twice": ("kind: stored", "kind: stored\n    kind: live"),
    "quote every": ('passes: "> 2"', "passes: > 2"),
    "must be a mapping": ("  - id: c1-exact", "  - just text\n  - id: c1-exact"),
}


@pytest.mark.parametrize(("message", "change"), FAULTS.items(), ids=list(FAULTS))
def test_each_fault_is_named(root, message, change):
    old, new = change
    assert FILE.count(old) >= 1
    with pytest.raises(claims.ClaimsFileError) as caught:
        claims.read(write(root, FILE.replace(old, new, 1)))
    assert message in str(caught.value)


def test_all_faults_are_listed_at_once(root):
    text = FILE.replace('"< 1e-3"', '"tiny"').replace("kind: stored", "kind: fast")
    text = text.replace("covers: [a2]", "covers: [a9]")
    with pytest.raises(claims.ClaimsFileError) as caught:
        claims.read(write(root, text))
    found = caught.value.faults
    assert len(found) == 4
    assert all(any(name in fault for fault in found) for name in ("c1-exact", "c2-gain", "a9"))


@pytest.mark.parametrize("text", ["", "- a", "3", "abstract: []\nclaims: []"])
def test_files_without_the_two_lists_are_refused(root, text):
    with pytest.raises(claims.ClaimsFileError):
        claims.read(write(root, text))


def test_missing_chapters_and_files(root):
    write(root, FILE)
    with pytest.raises(KeyError, match="toy"):
        claims.chapter("tois")
    with pytest.raises(FileNotFoundError):
        claims.read(root / "notebooks" / "none" / "claims.yml")


def test_without_a_clone_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="clone"):
        claims.chapters()


# ------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("< 3", 2.9, True),
        ("< 3", 3, False),
        ("<= 3", 3, True),
        ("> .5", 0.5, False),
        (">= .5", 0.5, True),
        ("> -1e-3", 0, True),
        ("== 7", 7, True),
        ("== 7", 7.0, True),
        ("== 7", 7 + 1e-9, False),
        ("== -2", -2, True),
        ("in [0.9, 1.1]", 0.9, True),
        ("in [.9,1.1]", 1.1, True),
        ("in [0.9, 1.1]", 1.2, False),
        ("value >= 1 and value <= 2", 2, True),
        ("value >= 1 and value <= 2", 2.1, False),
        ("lower > 0", 5, True),
        ("lower > 1", 5, False),
        ("upper < 10", 5, False),
        ("upper <= 10", 5, True),
        ("> 4 and lower in [0, 2] and upper == 10", 5, True),
        ("value>4", 5, True),
        ("reported", 5, False),
    ],
)
def test_grammar(text, value, met):
    interval = Interval(value, 1, 10, 0.95, 3, "by hand") if 1 <= value <= 10 else None
    assert Condition.parse(text).met(value, interval) is met


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "= 3",
        "== 3.5",
        "== 1e3",
        "!= 3",
        "> x",
        "> 1,5",
        "> inf",
        "> nan",
        "> 1e999",
        "in [2, 1]",
        "in (1, 2)",
        "in [1, 2, 3]",
        "mean > 3",
        "> 3 or < 2",
        "> 3 and",
        "and > 3",
        "> 3 & < 4",
        "reported and > 3",
        "Reported",
        "1 < value < 2",
        "lower upper > 2",
        "> 3 < 4",
    ],
)
def test_what_the_grammar_refuses(text):
    with pytest.raises(ValueError):
        Condition.parse(text)


number = st.floats(-1e6, 1e6).map(lambda x: round(x, 4))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["value", "lower", "upper"]),
            st.sampled_from(["<", "<=", ">", ">="]),
            number,
        ),
        min_size=1,
        max_size=4,
    ),
    st.tuples(number, number, number).map(sorted),
)
def test_a_condition_is_the_conjunction_of_its_parts(parts, ends):
    low, value, high = ends
    text = " and ".join(f"{subject} {op} {bound!r}" for subject, op, bound in parts)
    subjects = {"value": value, "lower": low, "upper": high}
    expected = all(eval(f"{subjects[s]!r} {op} {bound!r}") for s, op, bound in parts)
    assert Condition.parse(text).met(value, Interval(value, low, high, 0.9, 3, "x")) is expected


@pytest.mark.parametrize("text", ["< 3", "> 3", "in [1, 2]", "== 3", "lower > 0", "upper < 0"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_pass(text, bad):
    condition = Condition.parse(text)
    assert condition.met(bad, Interval(bad, bad, bad, 0.9, 3, "x")) is False
    assert condition.met(3.0, Interval(3.0, bad, bad, 0.9, 3, "x")) is False


# --------------------------------------------------------------------------------------- verdicts


def test_a_claim_that_holds(ledger):
    verdict = ledger.judge("c1-exact", 1e-4)
    assert (verdict.held, verdict.expected, verdict.ok, verdict.verdict) == (
        True,
        True,
        True,
        "holds",
    )
    assert (verdict.condition, verdict.kind) == ("< 1e-3", "live")


@pytest.mark.parametrize(
    ("id", "value", "interval", "word", "ok"),
    [
        ("c1-exact", 1e-2, None, "fails", False),
        ("c1-exact", math.nan, None, "not finite", False),
        ("c2-gain", 0.25, gain(), "holds", True),
        ("c2-gain", 0.25, gain(low=-0.1), "fails", False),
        ("c3-twice", 1.5, None, "not supported", True),
        ("c3-twice", 2.5, None, "flipped", False),
        ("c3-twice", math.nan, None, "not finite", False),
        ("c3-twice", -math.inf, None, "not finite", False),
        ("c4-look", 0.25, gain(), "reported", True),
        ("c4-look", math.inf, gain(0, math.inf, math.inf), "not finite", False),
    ],
)
def test_verdicts_and_what_record_does_with_them(ledger, capsys, id, value, interval, word, ok):
    verdict = ledger.judge(id, value, interval=interval)
    assert (verdict.verdict, verdict.ok) == (word, ok)
    assert capsys.readouterr().out == ""
    assert ledger.recorded == {}
    if ok:
        assert ledger.record(id, value, interval=interval) == verdict
    else:
        with pytest.raises(claims.ClaimFailed, match=re.escape(id)) as caught:
            ledger.record(id, value, interval=interval)
        assert isinstance(caught.value, AssertionError)
        assert caught.value.verdict.verdict == word
    # The card is shown in either case.
    assert id in capsys.readouterr().out
    assert list(ledger.recorded) == [id]


def test_a_reported_claim_is_never_held(ledger):
    verdict = ledger.judge("c4-look", 0.25, interval=gain())
    assert verdict.held is None
    assert verdict.expected is None


def test_the_message_of_a_failure_has_the_numbers(ledger):
    with pytest.raises(claims.ClaimFailed) as caught:
        ledger.record("c2-gain", 0.25, interval=gain(low=-0.1))
    for part in ("toy / c2-gain", "0.25 [-0.1, 0.4]", "lower > 0", "declared to be: holds"):
        assert part in str(caught.value)
    with pytest.raises(claims.ClaimFailed, match="declared to be: not supported"):
        ledger.record("c3-twice", 4)


def test_errors_of_use(ledger):
    with pytest.raises(KeyError, match="c1-exact"):
        ledger.record("c1-exakt", 1)
    with pytest.raises(ValueError, match="nothing to record"):
        ledger.record("c5-large", 1)
    for id in ("c2-gain", "c4-look"):
        with pytest.raises(ValueError, match="needs an interval"):
            ledger.record(id, 0.25)
    with pytest.raises(TypeError, match="Interval"):
        ledger.record("c2-gain", 0.25, interval=(0.1, 0.4))
    with pytest.raises(ValueError, match="not the estimate"):
        ledger.record("c2-gain", 0.3, interval=gain())
    with pytest.raises(ValueError, match="2 intervals"):
        ledger.record("c2-gain", 0.25, interval=claims.wilson([1, 2], [4, 4], z=1))
    for bad in ("0.1", None, [0.1, 0.2], np.ones(2), 1j):
        with pytest.raises(TypeError, match="one number"):
            ledger.judge("c1-exact", bad)
    assert ledger.recorded == {}


def test_scalars_of_other_libraries_are_numbers(ledger):
    import torch

    for value in (np.float32(0), np.array(0.0), np.array([0.0]), torch.tensor(0.0), False, 0):
        verdict = ledger.judge("c1-exact", value)
        assert verdict.held
        assert type(verdict.value) in (int, float)


# ------------------------------------------------------------------------------------ rows, cards


def test_rows_are_json_with_the_documented_keys(ledger):
    verdict = ledger.judge("c2-gain", np.float64(0.25), interval=gain())
    row = ledger["c2-gain"].row(verdict, seeds=np.arange(3), note="ten seeds")
    assert tuple(row) == claims.ROW_KEYS
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["ours"] == "0.25 [0.1, 0.4]"
    assert row["seeds"] == [0, 1, 2]
    assert (row["value"], row["low"], row["high"], row["level"], row["n"]) == (
        0.25,
        0.1,
        0.4,
        0.95,
        10,
    )
    assert (row["held"], row["ok"], row["verdict"], row["expect"]) == (
        True,
        True,
        "holds",
        "holds",
    )
    assert row["covers"] == ["a1"]
    assert row["paper"] == 0.25


def test_rows_without_a_number(ledger):
    assert ledger["c5-large"].row()["verdict"] == "not tested"
    assert ledger["c1-exact"].row()["verdict"] == "not recorded"
    row = ledger["c1-exact"].row(ledger.judge("c1-exact", math.nan))
    assert row["value"] is None
    assert row["ours"] == "nan"
    assert row["verdict"] == "not finite"
    assert json.dumps(row, allow_nan=False)


def test_every_verdict_has_words(ledger):
    for verdict in claims.VERDICTS:
        row = ledger["c1-exact"].row(ledger.judge("c1-exact", 0)) | {"verdict": verdict}
        assert claims.VERDICTS[verdict][1] in claims.card(row)


def test_the_card(ledger):
    verdict = ledger.judge("c1-exact", 1e-4, interval=Interval.exact(1e-4))
    row = ledger["c1-exact"].row(verdict, seeds=[0, 1, 2, 3, 7], note="a > b")
    page = claims.card(row)
    assert 'id="claim-toy-c1-exact"' in page
    assert 'class="pk-claim pk-claim-holds"' in page
    assert 'role="group"' in page
    assert "The <code>score</code> is exact &amp; &lt;simple&gt;." in page
    for part in (
        "0.0001",
        "&lt; 1e-3",
        "as stated",
        "measured in this build",
        "0-3, 7",
        "a &gt; b",
    ):
        assert part in page
    assert "://" not in page
    from html.parser import HTMLParser

    class Balance(HTMLParser):
        open: list = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_a_card_names_only_what_is_known_of_an_interval(ledger):
    unnamed, named = (Interval(1e-4, 0, 5e-4, 0.95, 16, method) for method in ("", "by hand"))
    pages = [
        claims.card(ledger["c1-exact"].row(ledger.judge("c1-exact", 1e-4, interval=each)))
        for each in (unnamed, named)
    ]
    assert "; 95 % interval, n = 16</dd>" in pages[0]
    assert "; 95 % interval, n = 16, by hand</dd>" in pages[1]


def test_the_badge_has_enough_contrast():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lin = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    for colour in {*claims._COLOURS.values(), claims._RED}:
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def test_in_a_notebook_the_row_is_output_metadata(ledger):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            ledger.record("c1-exact", 0.0)
            with pytest.raises(claims.ClaimFailed):
                ledger.record("c1-exact", 1.0)
    finally:
        InteractiveShell.clear_instance()
    good, bad = captured.outputs
    # Another mime type than these would be a warning when the book is rendered.
    assert set(good.data) == {"text/html", "text/plain"}
    assert good.metadata[claims.METADATA_KEY]["verdict"] == "holds"
    assert bad.metadata[claims.METADATA_KEY]["verdict"] == "fails"
    assert set(good.metadata) == {"paperkit_claim"}


def test_a_cell_that_ends_with_a_record_shows_the_card_only(ledger, capsys):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    try:
        shell.user_ns["ledger"] = ledger
        with capture_output() as captured:
            assert shell.run_cell("ledger.record('c1-exact', 0.0)").success
        assert len(captured.outputs) == 1
        assert "Verdict" not in captured.stdout
        with capture_output() as captured:
            shell.run_cell("ledger.judge('c1-exact', 0.0)")
        assert "held=True" in captured.stdout
    finally:
        InteractiveShell.clear_instance()


# -------------------------------------------------------------------------------------- intervals


def test_interval_refuses_nonsense():
    with pytest.raises(ValueError, match="level"):
        Interval(0, 0, 0, 0, 3, "x")
    with pytest.raises(ValueError, match="above"):
        Interval(0, 1, -1, 0.9, 3, "x")
    with pytest.raises(ValueError, match="shapes"):
        Interval(np.zeros(2), 0.0, 1.0, 0.9, 3, "x")
    assert Interval.exact(3).low == Interval.exact(3).high == 3
    assert str(Interval(0.5, 0.25, 0.75, 0.9, 3, "x")) == "0.5 [0.25, 0.75]"


@pytest.mark.parametrize(("method", "name"), [("bca", "BCa"), ("percentile", "percentile")])
def test_bootstrap_agrees_with_scipy(method, name):
    from scipy import stats

    x = np.random.default_rng(0).exponential(size=60)
    y = x + np.random.default_rng(1).normal(size=60)

    def slope(a, b):
        return float(np.polyfit(a, b, 1)[0])

    ours = claims.bootstrap(slope, x, y, method=method, rng=5, n_draws=400)
    theirs = stats.bootstrap(
        (x, y),
        slope,
        paired=True,
        vectorized=False,
        n_resamples=400,
        method=name,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, rel=1e-12)
    assert ours.high == pytest.approx(theirs.high, rel=1e-12)
    assert ours.estimate == slope(x, y)
    assert ours.n == 60
    assert method in ours.method


def test_bootstrap_covers():
    rng = np.random.default_rng(3)
    found = [
        claims.bootstrap(np.mean, rng.normal(size=40), n_draws=300, rng=i, method="percentile")
        for i in range(200)
    ]
    share = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.89 <= share <= 0.99


def test_clusters_are_drawn_whole():
    # Rows within a cluster are equal: the interval must be that of the cluster means.
    rng = np.random.default_rng(0)
    means = rng.normal(size=25)
    rows = np.repeat(means, 8)
    groups = np.repeat([f"g{i}" for i in rng.permutation(25)], 8)
    order = rng.permutation(200)
    clustered = claims.bootstrap(np.mean, rows[order], groups=groups[order], rng=1, n_draws=4000)
    by_mean = claims.bootstrap(np.mean, means, rng=2, n_draws=4000)
    naive = claims.bootstrap(np.mean, rows, rng=3)
    width = clustered.high - clustered.low
    assert width == pytest.approx(by_mean.high - by_mean.low, rel=0.1)
    assert width > 2 * (naive.high - naive.low)
    assert clustered.n == 25
    assert "clusters" in clustered.method


def test_bootstrap_is_reproducible_and_takes_many_dimensions():
    images = np.random.default_rng(0).normal(size=(12, 3, 2))
    first, second = (
        claims.bootstrap(lambda a: a.mean(axis=(0, 1))[0], images, rng=4) for _ in range(2)
    )
    assert first == second
    assert first != claims.bootstrap(lambda a: a.mean(axis=(0, 1))[0], images, rng=5)


def test_bootstrap_where_bca_is_undefined():
    constant = claims.bootstrap(np.mean, np.ones(10), rng=0)
    assert (constant.low, constant.high) == (1, 1)
    assert "undefined" in constant.method
    top = claims.bootstrap(np.max, np.arange(30.0), rng=0)
    assert math.isfinite(top.low)
    assert top.high == 29


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "at least one sample"),
        (([1, 2], [1, 2, 3]), {}, "lengths"),
        ((3,), {}, "dimension"),
        (([1],), {}, "two rows"),
        (([],), {}, "two rows"),
        (([1, 2],), {"groups": ["a", "a"]}, "two clusters"),
        (([1, 2],), {"groups": ["a"]}, "shape"),
        (([1, 2],), {"level": 1}, "level"),
        (([1, 2],), {"level": 95}, "level"),
        (([1, 2],), {"n_draws": 10}, "n_draws"),
        (([1, 2],), {"method": "basic"}, "method"),
        (([1, np.nan],), {}, "on the samples"),
    ],
)
def test_bootstrap_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        claims.bootstrap(lambda *a: np.mean(a[0]), *arguments, **({"rng": 0} | options))


def test_bootstrap_refuses_statistics_that_break():
    with pytest.raises(ValueError, match="one number"):
        claims.bootstrap(lambda a: a, [1, 2, 3], rng=0)
    with pytest.raises(ValueError, match=r"of 2000 draws"):
        claims.bootstrap(lambda a: 1.0 if 0 in a else np.nan, [0, 1, 2, 3], rng=0)
    for rng in (None, "0", 0.5, True):
        with pytest.raises(TypeError, match="rng"):
            claims.bootstrap(np.mean, [1, 2, 3], rng=rng)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_agrees_with_statsmodels_and_its_formula(n, share, level):
    from scipy.stats import norm
    from statsmodels.stats.proportion import proportion_confint

    k = round(share * n)
    ours = claims.wilson(k, n, level=level)
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert ours.low == pytest.approx(max(low, 0), abs=1e-12)
    assert ours.high == pytest.approx(min(high, 1), abs=1e-12)
    z = norm.isf((1 - level) / 2)
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    assert ours.low == pytest.approx(max(centre - half, 0), abs=1e-9)
    assert ours.high == pytest.approx(min(centre + half, 1), abs=1e-9)
    by_z = claims.wilson(k, n, z=z)
    assert (by_z.low, by_z.high) == pytest.approx((ours.low, ours.high), abs=1e-9)
    assert ours.estimate == k / n
    assert claims.wilson(0, n, level=level).low == 0
    assert claims.wilson(n, n, level=level).high == 1


def test_wilson_broadcasts():
    found = claims.wilson([[0], [5]], [10, 20, 30], level=0.9)
    assert found.low.shape == found.high.shape == found.estimate.shape == found.n.shape == (2, 3)
    assert found.low[0, 0] == 0
    single = claims.wilson(5, 20, level=0.9)
    assert found.low[1, 1] == pytest.approx(single.low)
    assert isinstance(single.low, float)


@pytest.mark.parametrize(
    ("k", "n", "options"),
    [
        (1, 2, {}),
        (1, 2, {"level": 0.9, "z": 1}),
        (1, 2, {"level": 0}),
        (1, 2, {"z": 0}),
        (1, 2, {"z": math.nan}),
        (3, 2, {"z": 1}),
        (-1, 2, {"z": 1}),
        (0, 0, {"z": 1}),
        (0.5, 2, {"z": 1}),
        (math.nan, 2, {"z": 1}),
    ],
)
def test_wilson_refuses(k, n, options):
    with pytest.raises(ValueError):
        claims.wilson(k, n, **options)


@given(st.floats(-3, 3), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_the_slope_of_an_exact_power_law(power, factor):
    x = np.array([10, 20, 50, 100])
    y = factor * x**power * np.array([[1.0], [2.0], [4.0]])
    found = claims.loglog_slope(x, y, rng=0, n_draws=200)
    assert found.estimate == pytest.approx(power, abs=1e-9)
    assert found.low == pytest.approx(power, abs=1e-9)
    assert found.high == pytest.approx(power, abs=1e-9)
    assert found.n == 3


def test_the_slope_of_noisy_replicates():
    rng = np.random.default_rng(0)
    x = np.array([64, 128, 256, 512, 1024])
    y = x**-0.5 * rng.gamma(4, 1 / 4, size=(60, 5))
    found = claims.loglog_slope(x, y, rng=1)
    assert found.low < -0.5 < found.high
    assert 0.02 < found.high - found.low < 0.4


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2], [1, 2]),
        ([1, 2, 3], [[1, 2]]),
        ([1, 1], [[1, 2], [1, 2]]),
        ([0, 1], [[1, 2], [1, 2]]),
        ([1, 2], [[1, -2], [1, 2]]),
        ([1, 2], [[1, 0], [1, 0]]),
        ([1, 2], [[1, np.nan], [1, 2]]),
        ([1, 2], [[1, 2]]),
    ],
)
def test_the_slope_refuses(x, y):
    with pytest.raises(ValueError):
        claims.loglog_slope(x, y, rng=0)
