"""Rows to prompts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit.risk_scores import Column, Question, Task, Template, load_task
from paperkit.risk_scores.tasks import TASKS

QUESTION = Question("Will it rain?", ("No", "Yes"), "What is the probability of rain?")
TASK = Task(
    "rain",
    "One day.",
    (Column("wind", "wind", {"w": "West", "e": "East"}), Column("cloud", "cloud cover")),
    QUESTION,
)
ROW = {"wind": "w", "cloud": 3}


def test_prompt_is_the_documented_text():
    assert TASK.render(ROW) == (
        "One day.\n\nInformation:\n- The wind is: West.\n- The cloud cover is: 3.\n\n"
        "Question: Will it rain?\nA. No.\nB. Yes.\nAnswer:"
    )
    assert TASK.render(ROW, order=(1, 0)).endswith("A. Yes.\nB. No.\nAnswer:")
    assert TASK.render(ROW, scheme="completion").endswith("Question: Will it rain?\nAnswer:")
    assert TASK.render(ROW, scheme="numeric").endswith(
        "Question: What is the probability of rain?\nAnswer (between 0 and 1): 0."
    )
    nobody = TASK.render(None, scheme="completion")
    assert "West" not in nobody
    assert nobody.startswith("One day.\n\nInformation:\n\nQuestion")


def test_examples_carry_the_letter_of_their_order():
    shots = [({"wind": "e", "cloud": 1}, 1)]
    assert "B. Yes.\nAnswer: B\n\n" in TASK.render(ROW, shots=shots)
    assert "A. Yes.\nB. No.\nAnswer: A\n\n" in TASK.render(ROW, order=(1, 0), shots=shots)
    assert "Answer: Yes.\n\n" in TASK.render(ROW, scheme="completion", shots=shots)
    with pytest.raises(ValueError, match="not probabilities"):
        TASK.render(ROW, scheme="numeric", shots=shots)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, float("nan")])
def test_missing_values_have_a_stated_text(missing):
    assert "wind is: N/A." in TASK.render({"wind": missing, "cloud": 1})
    assert Column("a", "a", missing="unknown").render(missing) == "unknown"


def test_unknown_value_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'wind'.*'north'.*'w', 'e'"):
        TASK.render({"wind": "north", "cloud": 1})


words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\\"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(words, words)
def test_render_is_injective_and_keeps_values(a, b):
    task = Task("t", "d", (Column("x", "x"),), QUESTION)
    left, right = task.render({"x": a}), task.render({"x": b})
    assert (left == right) == (a == b)
    assert f"- The x is: {a}." in left


def test_braces_and_line_breaks_in_values_stay_on_their_line():
    task = Task("t", "d", (Column("x", "x"),), QUESTION)
    text = task.render({"x": "{label}\n- The age is: 3"})
    assert "- The x is: {label}\\n- The age is: 3." in text
    assert text.count("\n") == task.render({"x": "a"}).count("\n")


def test_integral_floats_read_as_integers():
    assert Column("x", "x").render(3.0) == "3"
    assert Column("x", "x").render(3.5) == "3.5"


@pytest.mark.parametrize(
    ("name", "n", "rate"),
    [
        ("income", 888, 0.260),
        ("employment", 1565, 0.536),
        ("travel_time", 781, 0.426),
        ("disability", 1585, 0.197),
        ("birth_half", 1585, 0.515),
        ("insurance", 8802, 0.801),
        ("hmda", 2380, 0.120),
    ],
)
def test_tasks_have_the_stated_rows_and_render(name, n, rate):
    task = load_task(name)
    assert len(task.X) == len(task.y) == len(task.groups) == n
    assert task.y.mean() == pytest.approx(rate, abs=5e-4)
    assert set(task.y) == {0, 1}
    for scheme in ("multiple_choice", "numeric", "completion"):
        prompts = task.prompts(scheme=scheme)
        assert len(prompts) == n
        assert not any(prompt.endswith(" ") for prompt in prompts)


def test_outcomes_do_not_leak_into_prompts():
    assert "income" not in load_task("income").X
    assert "employment" not in load_task("employment").X
    assert "disability" not in load_task("disability").X


def test_from_frame():
    df = pd.DataFrame({"pay": [10, 99, None, 70], "home_town": list("abcd")})
    words = {"question": QUESTION, "description": "d"}
    made = Task.from_frame(df, target="pay", positive=(">", 50), **words)
    assert made.y.tolist() == [0, 1, 1]
    assert made.X.home_town.tolist() == ["a", "b", "d"]
    assert "- The home town is: d." in made.prompts()[2]
    same = Task.from_frame(df, target="pay", positive=lambda pay: pay > 50, **words)
    assert same.y.equals(made.y)
    assert Task.from_frame(df, target="home_town", positive="c", **words).y.sum() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "wage"}, "'wage' is not a column"),
        ({"positive": (">", 1000)}, "one class"),
        ({"positive": ("~", 1)}, "comparison must be one of"),
        ({"positive": 7}, "never occurs"),
        ({"columns": [Column("nope", "n")]}, "lacks columns.*'nope'"),
        ({"columns": [Column("pay", "n")]}, "must not be one of the columns"),
    ],
)
def test_from_frame_refuses(change, message):
    df = pd.DataFrame({"pay": [10, 99, 70], "town": list("abc")})
    arguments = {"target": "pay", "positive": 99, "question": QUESTION, "description": "d"}
    with pytest.raises(ValueError, match=message):
        Task.from_frame(df, **(arguments | change))


def test_bad_words_are_refused():
    with pytest.raises(TypeError, match="DataFrame"):
        Task.from_frame([1], target="a", positive=1, question=QUESTION, description="d")
    with pytest.raises(ValueError, match="two different answers"):
        Question("?", ("a", "a"))
    with pytest.raises(ValueError, match="white space"):
        Template(answer="Answer: ")
    with pytest.raises(ValueError, match="twice"):
        Task("t", "d", (Column("a", "a"), Column("a", "b")), QUESTION)
    with pytest.raises(ValueError, match="no columns"):
        Task("t", "d", (), QUESTION)
    with pytest.raises(ValueError, match="numeric_text"):
        Task("t", "d", TASK.columns, Question("?", ("a", "b"))).ask("numeric")
    with pytest.raises(ValueError, match="scheme must be one of"):
        TASK.render(ROW, scheme="essay")
    with pytest.raises(ValueError, match=r"order must be \(0, 1\)"):
        TASK.render(ROW, order=(0, 0))
    with pytest.raises(ValueError, match="name must be one of"):
        load_task("weather")


def test_sample_keeps_rows_and_outcomes_together():
    task = load_task("income")
    part = task.sample(20, np.random.default_rng(1))
    assert len(part.X) == 20
    assert part.X.index.tolist() == list(range(20))
    assert task.sample(10**6, np.random.default_rng(1)) is task
    rows = [5, 3]
    assert task.take(rows).y.tolist() == task.y.iloc[rows].tolist()
    assert set(TASKS) >= {"income", "employment"}
