"""From a table of people to questions in text.

A *task* is a table, a sentence that introduces it, a label for every column and one question with
two possible answers. :meth:`Task.render` turns one row into the prompt that a language model
reads::

    PREFIX   what the data are, the same for all rows
    INFO     one line per column:  "- The age is: 62 years old."
    SUFFIX   the question, in one of three schemes

The three ways of asking (``scheme``):

``"multiple_choice"``
    The two answers are listed as ``A.`` and ``B.``; the model continues after ``Answer:``.
``"numeric"``
    The model is asked for a probability and continues after ``0.``.
``"completion"``
    The model continues after ``Answer:`` with one of the two answers in full, nothing is listed.

The structure follows Cruz, Hardt and Mendler-Duenner (2024), section on prompting; the wording is
ours and is a parameter (:class:`Template`), because scores change with every word of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pandas as pd

from paperkit import data
from paperkit.risk_scores._checks import Scheme, check_choice

LETTERS = ("A", "B")


@dataclass(frozen=True)
class Template:
    """The wording around a task's own words.

    Attributes
    ----------
    heading, line : str
        Opens the information, and one line of it with the fields ``{label}`` and ``{value}``.
    question, choice : str
        The question, with the field ``{text}``, and one listed answer, with ``{letter}`` and
        ``{choice}``.
    answer, numeric_answer : str
        What the model continues. Neither may end in a space: the first token of the answer carries
        it.
    system_choice, system_numeric, system_completion : str
        The system message of the chat variant, by scheme.
    """

    heading: str = "Information:"
    line: str = "- The {label} is: {value}."
    question: str = "Question: {text}"
    choice: str = "{letter}. {choice}."
    answer: str = "Answer:"
    numeric_answer: str = "Answer (between 0 and 1): 0."
    system_choice: str = "Answer the question by choosing one of the listed options."
    system_numeric: str = "Answer the question with a single probability between 0 and 1."
    system_completion: str = "Answer the question."

    def __post_init__(self) -> None:
        for name in ("answer", "numeric_answer"):
            text = getattr(self, name)
            if not text or text != text.rstrip():
                raise ValueError(
                    f"Template.{name} must be non-empty and not end in white space: {text!r}"
                )


DEFAULT_TEMPLATE = Template()


@dataclass(frozen=True)
class Column:
    """One column of the table and how its values read in English.

    Attributes
    ----------
    name : str
        The column's name in the table.
    description : str
        Its name in the text ("usual number of hours worked per week").
    values : Mapping or callable or None
        From a value to its text. ``None`` writes the value as it is, a callable is applied to it,
        and a mapping must know every value that occurs (an unknown value is an error, never a
        silent "N/A").
    missing : str
        The text of a missing value (None, NaN, pandas.NA).
    """

    name: str
    description: str
    values: Mapping[Any, str] | Callable[[Any], str] | None = None
    missing: str = "N/A"

    def render(self, value: Any) -> str:
        """Text of one value, on one line.

        Raises
        ------
        ValueError
            If ``values`` is a mapping that does not know the value.
        """
        if pd.isna(value):
            return self.missing
        if self.values is None:
            text = (
                str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            )
        elif callable(self.values):
            text = self.values(value)
        elif value in self.values:
            text = self.values[value]
        else:
            known = ", ".join(map(repr, self.values))
            raise ValueError(
                f"column {self.name!r}: unknown value {value!r}; known values: {known}"
            )
        # A line break inside a value would look like the next column to the model.
        return text.replace("\r", "").replace("\n", "\\n")


@dataclass(frozen=True)
class Question:
    """A yes-or-no question about a row.

    Attributes
    ----------
    text : str
        The question.
    choices : tuple of str
        The two answers, (negative, positive), without a full stop.
    numeric_text : str or None
        The same question as "What is the probability that ...?", needed by the numeric scheme.
    """

    text: str
    choices: tuple[str, str]
    numeric_text: str | None = None

    def __post_init__(self) -> None:
        if len(self.choices) != 2 or self.choices[0] == self.choices[1]:
            raise ValueError(f"choices must be two different answers, got {self.choices!r}")


@dataclass(frozen=True)
class Task:
    """A prediction task in words: description, columns in the order of the prompt, question.

    The order of ``columns`` is part of the prompt: another order is another prompt and gives other
    scores.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    question: Question
    template: Template = field(default=DEFAULT_TEMPLATE)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names:
            raise ValueError(f"task {self.name!r} has no columns")
        if len(set(names)) < len(names):
            raise ValueError(f"task {self.name!r} names a column twice: {names}")

    def check(self, X: pd.DataFrame) -> None:
        """Raise unless ``X`` is a data frame with at least one row and every column of the task."""
        if not isinstance(X, pd.DataFrame):
            raise TypeError(f"X must be a pandas DataFrame, got {type(X).__name__}")
        absent = [column.name for column in self.columns if column.name not in X.columns]
        if absent:
            raise ValueError(
                f"X lacks columns of task {self.name!r}: {', '.join(map(repr, absent))}"
            )
        if len(X) == 0:
            raise ValueError("X has no rows")

    def information(self, row: Mapping[str, Any]) -> str:
        """One line per column."""
        return "\n".join(
            self.template.line.format(
                label=column.description, value=column.render(row[column.name])
            )
            for column in self.columns
        )

    def stub(self, scheme: Scheme) -> str:
        """What the model continues in this scheme: the answer line without an answer."""
        return self.template.numeric_answer if scheme == "numeric" else self.template.answer

    def ask(self, scheme: Scheme, order: Sequence[int] = (0, 1)) -> str:
        """Question of this scheme, without the answer line.

        Parameters
        ----------
        scheme : {"multiple_choice", "numeric", "completion"}
            The way of asking.
        order : (0, 1) or (1, 0)
            Multiple choice: which of (negative, positive) is listed first.
        """
        check_choice("scheme", scheme, get_args(Scheme))
        if sorted(order) != [0, 1]:
            raise ValueError(f"order must be (0, 1) or (1, 0), got {tuple(order)!r}")
        template = self.template
        if scheme == "numeric":
            if self.question.numeric_text is None:
                raise ValueError(
                    f"task {self.name!r}: scheme 'numeric' needs Question.numeric_text "
                    "('What is the probability that ...?')"
                )
            return template.question.format(text=self.question.numeric_text)
        lines = [template.question.format(text=self.question.text)]
        if scheme == "multiple_choice":
            lines += [
                template.choice.format(letter=letter, choice=self.question.choices[which])
                for letter, which in zip(LETTERS, order, strict=True)
            ]
        return "\n".join(lines)

    def body(
        self, row: Mapping[str, Any] | None, *, scheme: Scheme, order: Sequence[int] = (0, 1)
    ) -> str:
        """Prompt without introduction and answer line; ``row=None`` leaves the information out."""
        information = "" if row is None else self.information(row) + "\n"
        return f"{self.template.heading}\n{information}\n{self.ask(scheme, order)}"

    def render(
        self,
        row: Mapping[str, Any] | None,
        *,
        scheme: Scheme = "multiple_choice",
        order: Sequence[int] = (0, 1),
        shots: Sequence[tuple[Mapping[str, Any], int]] = (),
    ) -> str:
        """Prompt of one row.

        Parameters
        ----------
        row : mapping or None
            A row of the table (``X.iloc[i]`` or a dict). None leaves the information out: the same
            question about nobody in particular.
        scheme : {"multiple_choice", "numeric", "completion"}
            The way of asking.
        order : (0, 1) or (1, 0)
            Multiple choice: (0, 1) lists the negative answer first, as A.
        shots : sequence of (row, label)
            Solved examples that come before the row. Their letters follow ``order`` too. Not for
            the numeric scheme: a label is not a probability.

        Returns
        -------
        str
            The prompt, ending where the model's answer begins.
        """
        if shots and scheme == "numeric":
            raise ValueError(
                "solved examples have labels, not probabilities: use n_shots=0 with 'numeric'"
            )
        stub = self.stub(scheme)
        parts = [self.description]
        for example, label in shots:
            solution = self.answer(label, scheme=scheme, order=order)
            parts.append(f"{self.body(example, scheme=scheme, order=order)}\n{stub}{solution}")
        parts.append(f"{self.body(row, scheme=scheme, order=order)}\n{stub}")
        return "\n\n".join(parts)

    def answer(self, label: int, *, scheme: Scheme, order: Sequence[int] = (0, 1)) -> str:
        """Continuation that states this label: ``" A"`` or ``" Employed."``."""
        if scheme == "completion":
            return f" {self.question.choices[label]}."
        return f" {LETTERS[list(order).index(label)]}"

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        *,
        target: str,
        positive: Any,
        question: Question,
        description: str,
        columns: Sequence[Column] | None = None,
        name: str = "custom",
        template: Template = DEFAULT_TEMPLATE,
    ) -> TaskData:
        """Make a task from any table.

        Parameters
        ----------
        df : DataFrame
            The table, outcome included.
        target : str
            The column that holds the outcome.
        positive : value, callable, or (comparison, number)
            Which outcomes count as 1: a value (``"yes"``), a function from the column to booleans,
            or a pair such as ``(">", 50_000)`` with one of ``> >= < <= ==``.
        question, description : Question, str
            The words.
        columns : sequence of Column, optional
            Columns of the prompt, in this order. Default: every other column under its own name.
        name, template : str, Template
            Name of the task; the wording around it.

        Returns
        -------
        TaskData
            Rows with a missing outcome are left out; ``groups`` is empty.

        Raises
        ------
        ValueError
            If the target or a column is absent, or if only one class remains.
        """
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f"df must be a pandas DataFrame, got {type(df).__name__}")
        if target not in df.columns:
            raise ValueError(f"target {target!r} is not a column; columns: {', '.join(df.columns)}")
        if columns is None:
            columns = [Column(c, str(c).replace("_", " ")) for c in df.columns if c != target]
        if any(column.name == target for column in columns):
            raise ValueError(f"target {target!r} must not be one of the columns of the prompt")
        task = cls(name, description, tuple(columns), question, template)
        known = df[df[target].notna()].reset_index(drop=True)
        y = _is_positive(known[target], positive).astype(int).rename(target)
        if y.nunique() < 2:
            raise ValueError(
                f"positive={positive!r} gives one class only on {len(y)} known outcomes"
            )
        X = known.drop(columns=target)
        task.check(X)
        return TaskData(task, X, y, pd.DataFrame(index=X.index))


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    Attributes
    ----------
    task : Task
        The words.
    X : DataFrame, shape (n, columns)
        Rows, index 0..n-1, with at least the columns of the task.
    y : Series of {0, 1}, shape (n,)
        Outcomes.
    groups : DataFrame, shape (n, attributes)
        Attributes for subgroup reports.
    """

    task: Task
    X: pd.DataFrame
    y: pd.Series
    groups: pd.DataFrame

    def sample(self, n: int, rng: np.random.Generator) -> TaskData:
        """Random subset of at most ``n`` rows, re-indexed 0..n-1, in the order of the table."""
        if n >= len(self.X):
            return self
        return self.take(np.sort(rng.choice(len(self.X), size=n, replace=False)))

    def take(self, rows: Sequence[int] | np.ndarray) -> TaskData:
        """Rows by position, re-indexed from 0."""
        rows = np.asarray(rows)
        return TaskData(
            self.task,
            self.X.iloc[rows].reset_index(drop=True),
            self.y.iloc[rows].reset_index(drop=True),
            self.groups.iloc[rows].reset_index(drop=True),
        )

    def prompts(
        self, *, scheme: Scheme = "multiple_choice", order: Sequence[int] = (0, 1)
    ) -> list[str]:
        """Prompts of all rows."""
        records = records_of(self.X)
        return [self.task.render(row, scheme=scheme, order=order) for row in records]


def records_of(X: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dicts."""
    return [
        dict(zip(map(str, X.columns), row, strict=True))
        for row in X.itertuples(index=False, name=None)
    ]


def _is_positive(outcome: pd.Series, positive: Any) -> pd.Series:
    if callable(positive):
        return positive(outcome)
    if isinstance(positive, tuple):
        comparison, bound = positive
        operations = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "==": "eq"}
        check_choice("comparison", comparison, tuple(operations))
        return getattr(outcome, operations[comparison])(bound)
    if positive not in set(outcome):
        raise ValueError(f"positive={positive!r} never occurs in {outcome.name!r}")
    return outcome == positive


# --- the tasks of the book ------------------------------------------------------------------------

SURVEY_2012 = (
    "The following describes one person who took part in a survey of people living in the United States "
    "in 2012. Answer the question from the information given, even if it allows only an approximate answer."
)
_YEARS = Column("age", "age", lambda value: f"{value:.0f} years old")
_EDUCATION = Column(
    "edu",
    "highest educational attainment",
    {
        "hs or lower": "High school diploma or lower",
        "college": "College degree",
        "grad": "Graduate degree",
    },
)
_MARRIED = Column("married", "marital status", {"yes": "Married", "no": "Not married"})
_HOURS = Column(
    "hrs_work", "usual number of hours worked per week", lambda value: f"{value:.0f} hours"
)
_SEX = Column("gender", "sex", {"male": "Male", "female": "Female"})
_RACE = Column(
    "race",
    "race",
    {
        "white": "White",
        "black": "Black or African American",
        "asian": "Asian",
        "other": "Some other race",
    },
)
_CITIZEN = Column("citizen", "citizenship status", {"yes": "US citizen", "no": "Not a US citizen"})
_LANGUAGE = Column(
    "lang",
    "language spoken at home",
    {"english": "English", "other": "A language other than English"},
)
_DISABILITY = Column(
    "disability",
    "disability status",
    {"yes": "With a disability", "no": "No disability"},
)
_INCOME = Column("income", "yearly income", lambda value: f"${value:,.0f}")
_ABOUT = (_SEX, _RACE, _CITIZEN, _LANGUAGE)

_YES_NO = {"yes": "Yes", "no": "No"}
_INSURANCE_COLUMNS = (
    _YEARS,
    Column("health", "self-reported health", {"yes": "Healthy", "no": "Not healthy"}),
    Column("limit", "limitation by a health condition", {"yes": "Limited", "no": "Not limited"}),
    _MARRIED,
    Column(
        "selfemp", "self-employment status", {"yes": "Self-employed", "no": "Not self-employed"}
    ),
    Column("family", "size of the family", lambda value: f"{value:.0f}"),
    Column("region", "region of the United States", lambda value: value.capitalize()),
    _SEX,
    Column(
        "ethnicity", "ethnicity", {"cauc": "White", "afam": "African American", "other": "Other"}
    ),
    Column(
        "education",
        "highest degree",
        {
            "none": "No degree",
            "ged": "GED",
            "highschool": "High school diploma",
            "bachelor": "Bachelor's degree",
            "master": "Master's degree",
            "phd": "Doctorate",
            "other": "Another degree",
        },
    ),
)

TASKS: dict[str, Task] = {
    "income": Task(
        "income",
        SURVEY_2012,
        (_YEARS, _EDUCATION, _MARRIED, _HOURS, *_ABOUT, _DISABILITY),
        Question(
            "What is this person's yearly income?",
            ("Below $50,000", "Above $50,000"),
            "What is the probability that this person's yearly income is above $50,000?",
        ),
    ),
    "employment": Task(
        "employment",
        SURVEY_2012,
        (_YEARS, _EDUCATION, _MARRIED, *_ABOUT, _DISABILITY),
        Question(
            "What is this person's employment status?",
            ("Unemployed or not in the labor force", "Employed"),
            "What is the probability that this person is employed?",
        ),
    ),
    "travel_time": Task(
        "travel_time",
        SURVEY_2012,
        (_YEARS, _EDUCATION, _MARRIED, _HOURS, *_ABOUT, _DISABILITY, _INCOME),
        Question(
            "How long is this person's commute to work?",
            ("At most 20 minutes", "Longer than 20 minutes"),
            "What is the probability that this person's commute to work is longer than 20 minutes?",
        ),
    ),
    "disability": Task(
        "disability",
        SURVEY_2012,
        (_YEARS, _EDUCATION, _MARRIED, *_ABOUT),
        Question(
            "What is this person's disability status?",
            ("No disability", "With a disability"),
            "What is the probability that this person has a disability?",
        ),
    ),
    "birth_half": Task(
        "birth_half",
        SURVEY_2012,
        (_YEARS, _EDUCATION, _MARRIED, *_ABOUT, _DISABILITY),
        Question(
            "In which half of the year was this person born?",
            ("January to June", "July to December"),
            "What is the probability that this person was born between July and December?",
        ),
    ),
    "insurance": Task(
        "insurance",
        SURVEY_2012.replace("2012", "1996"),
        _INSURANCE_COLUMNS,
        Question(
            "Does this person have health insurance?",
            ("No, not insured", "Yes, insured"),
            "What is the probability that this person has health insurance?",
        ),
    ),
    "hmda": Task(
        "hmda",
        "The following describes one application for a mortgage in Boston in 1990. Answer the question "
        "from the information given, even if it allows only an approximate answer.",
        (
            Column("pirat", "ratio of payments to income", lambda value: f"{100 * value:.0f}%"),
            Column("lvrat", "ratio of loan to value", lambda value: f"{100 * value:.0f}%"),
            Column(
                "chist", "consumer credit score, from 1 (best) to 6", lambda value: f"{value:.0f}"
            ),
            Column(
                "mhist", "mortgage credit score, from 1 (best) to 4", lambda value: f"{value:.0f}"
            ),
            Column("phist", "public record of bad credit", _YES_NO),
            Column(
                "selfemp",
                "self-employment status",
                {"yes": "Self-employed", "no": "Not self-employed"},
            ),
            Column("single", "marital status", {"yes": "Single", "no": "Not single"}),
            Column("hschool", "high school diploma", _YES_NO),
        ),
        Question(
            "Was the mortgage granted or denied?",
            ("Granted", "Denied"),
            "What is the probability that the mortgage was denied?",
        ),
    ),
}

# The paper's five tasks and what stands in for them here. Mobility needs the place of residence a
# year before, which no table of ours has; its place as the task with almost nothing to learn is
# taken by birth_half.
ANALOGUES = {
    "ACSIncome": "income",
    "ACSEmployment": "employment",
    "ACSTravelTime": "travel_time",
    "ACSPublicCoverage": "insurance",
    "ACSMobility": "birth_half",
}


def load_task(name: str) -> TaskData:
    """Load a task of the book with its rows.

    Parameters
    ----------
    name : str
        ``"income"`` (above $50,000 a year), ``"employment"``, ``"travel_time"`` (commute above 20
        minutes), ``"disability"`` and ``"birth_half"`` (negative control: born July to December)
        from 2,000 respondents of the American Community Survey 2012; ``"insurance"`` (any health
        insurance, 8,802 respondents of the Medical Expenditure Panel Survey 1996) and ``"hmda"``
        (2,380 mortgage applications, denied or not).

    Returns
    -------
    TaskData
        Words, rows, outcomes and the attributes of the subgroup reports.

    Notes
    -----
    Filters, chosen to be near those of the paper's tasks: income, people above 16 with a positive
    number of working hours and more than $100; employment, known status, 16 < age < 90; travel
    time, known and above 16; the last two, known employment status and above 16. Survey weights are
    absent: results describe the sample, not the country. Sources and licences:
    ``paperkit.data.sources()``.
    """
    check_choice("name", name, tuple(TASKS))
    task = TASKS[name]
    if name in ("insurance", "hmda"):
        table = data.table(
            "risk_scores/health_insurance" if name == "insurance" else "risk_scores/hmda"
        )
        y = table[name if name == "insurance" else "deny"].eq("yes")
        groups = {"insurance": ["gender", "ethnicity"], "hmda": ["afam", "single"]}[name]
        return _assemble(task, table, y, groups)
    table = data.table("risk_scores/acs12")
    adult = table.age > 16
    known = table.employment.notna()
    keep, positive = {
        "income": (adult & (table.income > 100) & (table.hrs_work > 0), table.income > 50_000),
        "employment": (adult & known & (table.age < 90), table.employment == "employed"),
        "travel_time": (adult & table.time_to_work.notna(), table.time_to_work > 20),
        "disability": (adult & known, table.disability == "yes"),
        "birth_half": (adult & known, table.birth_qrtr.isin(["jul thru sep", "oct thru dec"])),
    }[name]
    groups = [column for column in ("gender", "race", "disability") if column != name]
    return _assemble(task, table[keep], positive[keep], groups)


def _assemble(task: Task, table: pd.DataFrame, y: pd.Series, groups: list[str]) -> TaskData:
    X = table[[column.name for column in task.columns]].reset_index(drop=True)
    return TaskData(
        task,
        X,
        y.astype(int).rename(task.name).reset_index(drop=True),
        table[groups].reset_index(drop=True),
    )
