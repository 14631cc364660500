"""Score some of our prompts with the authors' software, for the comparison in notebook 3.

Needs a copy of ``folktexts`` 0.7 (its dependencies are not those of this book: ``pip install --no-deps folktexts
cloudpickle folktables netcal``). Only numbers are kept: rows, a digest of the prompts, scores. The prompts are
ours; the querying of the model and the reading of its answer are the authors'.

    python scripts/risk_scores/reference_scores.py
"""

import numpy as np
from folktexts.llm_utils import query_model_batch, query_model_batch_multiple_passes
from folktexts.qa_interface import Choice, DirectNumericQA, MultipleChoiceQA

from paperkit import data
from paperkit.models import load_language_model
from paperkit.risk_scores import LMRiskScorer, load_task
from paperkit.risk_scores.experiments import digest

ROWS, NUMBERS = 8, 4
CONTEXT = 600


def choice_scores(lm, texts: list[str], positive: str) -> np.ndarray:
    """Scores of the authors' multiple-choice reading; ``positive`` is the letter of the positive answer."""
    values = (0, 1) if positive == "B" else (1, 0)
    choices = tuple(Choice(letter, v) for letter, v in zip("AB", values, strict=True))
    question = MultipleChoiceQA("answer", "?", choices=choices)
    table = query_model_batch(texts, lm.model, lm.tokenizer, CONTEXT)
    return np.array(
        [question.get_answer_from_model_output(row, lm.tokenizer.vocab) for row in table]
    )


def margin(row: np.ndarray, digits: list[int]) -> float:
    """Smallest distance between the best two digits over both steps."""
    best = np.sort(row[:, digits].astype(float), axis=1)
    return float((best[:, -1] - best[:, -2]).min())


def main() -> None:
    lm = load_language_model("smollm2-135m")
    digits = [lm.tokenizer(str(d), add_special_tokens=False)["input_ids"][0] for d in range(10)]
    number = DirectNumericQA("answer", "?")
    facts = {}
    for name in ("income", "employment"):
        everyone = load_task(name)
        rows = np.sort(np.random.default_rng(0).choice(len(everyone.y), ROWS, replace=False))
        task = everyone.take(rows)
        scorer = LMRiskScorer(task.task, (lm.model, lm.tokenizer))
        texts = [scorer.prompts(task.X), scorer.prompts(task.X, (1, 0))]
        orders = [choice_scores(lm, text, letter) for text, letter in zip(texts, "BA", strict=True)]
        asked = LMRiskScorer(task.task, (lm.model, lm.tokenizer), scheme="numeric").prompts(
            task.X.iloc[:NUMBERS]
        )
        passes = query_model_batch_multiple_passes(
            asked, lm.model, lm.tokenizer, CONTEXT, 2, digits_only=True
        )
        facts[name] = {
            "rows": rows.tolist(),
            "digest": digest(*texts[0], *texts[1]),
            "choice": np.mean(orders, axis=0).tolist(),
            "numeric": [
                float(number.get_answer_from_model_output(p, lm.tokenizer.vocab)) for p in passes
            ],
            "margin": [margin(p, digits) for p in passes],
        }
    data.save_stored(
        "risk_scores",
        "reference_scores",
        facts,
        script="scripts/risk_scores/reference_scores.py",
        settings={
            "software": "folktexts 0.7.1",
            "model": "smollm2-135m",
            "rows": ROWS,
            "numbers": NUMBERS,
        },
        seeds=[0],
    )
    print(facts)


if __name__ == "__main__":
    main()
