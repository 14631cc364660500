"""Packaged models are found, verified, converted once and never replaced by something else."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tiny_models import CharacterTokenizer, tiny_llama

from paperkit import models
from paperkit.models import LanguageModel, ModelCorrupt, ModelNotInstalled, __main__, loading


def word_tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "hello": 1, "world": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package with fake GGUF weights; its reader is replaced and counted."""
    folder = tmp_path / "site" / "fake_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the package must not be imported')\n")
    (folder / "tiny.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PAPERKIT_CACHE", str(tmp_path / "cache"))
    package = replace(
        loading.LANGUAGE_MODELS["smollm2-135m"],
        module="fake_weights",
        distribution="torch",  # any installed distribution: only its version is asked for
        files={"tiny.gguf": hashlib.sha256(b"weights").hexdigest()},
        label="tiny",
    )
    monkeypatch.setitem(loading.LANGUAGE_MODELS, "tiny", package)
    calls = []

    def read(where, file, dtype):
        calls.append((where / file, dtype))
        return tiny_llama().model, word_tokenizer()

    monkeypatch.setattr(loading, "_load_gguf", read)
    loading._shared.cache_clear()
    yield package, folder, calls
    loading._shared.cache_clear()


def test_import_loads_no_heavy_library():
    code = (
        "import sys; from paperkit import models; assert 'PrefixTreeScorer' in dir(models);"
        "print([m for m in ('torch', 'transformers', 'diffusers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    assert set(models.__all__) == set(models._HOME)
    assert all(getattr(models, name).__doc__ for name in models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_model'"):
        models.load_model  # noqa: B018


def test_requirements_are_those_of_the_project():
    text = (Path(loading.__file__).parents[2] / "models.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert loading.requirement_lines() == lines


def test_converts_once_and_gives_the_same_logits(packaged, tmp_path):
    package, folder, calls = packaged
    first = models.load_language_model("tiny")
    again = models.load_language_model("tiny")
    assert calls == [(folder / "tiny.gguf", torch.float32)]
    assert first.label == "tiny"
    assert first.model is not again.model
    assert not again.model.training
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(
        again.model(ids).logits, tiny_llama().model(ids).logits, rtol=0, atol=0
    )
    assert again.tokenizer("hello world").input_ids == [1, 2]
    (made,) = [p for p in (tmp_path / "cache" / "models").iterdir() if p.is_dir()]
    sha = package.files["tiny.gguf"][:16]
    assert made.name.startswith("tiny-2.")
    assert f"-{sha}-transformers" in made.name
    assert json.loads((made / "paperkit.json").read_text())["dtype"] == "float32"


def test_dtype_is_the_callers(packaged):
    assert models.load_language_model("tiny", dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_unfinished_copy_is_made_again(packaged):
    _, _, calls = packaged
    folder = loading.converted_folder("tiny")
    (folder / "model.safetensors").write_bytes(b"cut off")
    assert loading.converted_folder("tiny") == folder
    assert len(calls) == 2
    (folder / "paperkit.json").write_text("{")
    loading.converted_folder("tiny")
    assert len(calls) == 3


def test_interrupted_conversion_leaves_nothing(packaged, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "_load_gguf", stop)
    with pytest.raises(KeyboardInterrupt):
        loading.converted_folder("tiny")
    left = [p.name for p in (tmp_path / "cache" / "models").iterdir() if p.suffix != ".lock"]
    assert left == []


def test_processes_that_start_together_convert_once(packaged, tmp_path):
    """While another process holds the lock nothing is converted; after it, its copy is used."""
    import threading

    _, _, calls = packaged
    done = loading.converted_folder("tiny")
    record = (done / "paperkit.json").read_text()
    (done / "paperkit.json").unlink()
    lock = FileLock(tmp_path / "cache" / "models" / f"{done.name}.lock")
    with lock:
        waiting = threading.Thread(target=loading.converted_folder, args=("tiny",))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        (done / "paperkit.json").write_text(record)
    waiting.join(30)
    assert len(calls) == 1


def test_missing_package_is_an_error_with_the_command(packaged, monkeypatch):
    package, _, _ = packaged
    absent = replace(package, module="no_such_weights_package")
    monkeypatch.setitem(loading.LANGUAGE_MODELS, "tiny", absent)
    with pytest.raises(ModelNotInstalled, match=r"python -m paperkit\.models install"):
        models.load_language_model("tiny")


def test_changed_weights_are_refused(packaged):
    _, folder, calls = packaged
    models.load_language_model("tiny")
    (folder / "tiny.gguf").write_bytes(b"other weights")
    with pytest.raises(ModelCorrupt, match=r"tiny\.gguf of torch has sha256 .* expected"):
        models.load_language_model("tiny")
    (folder / "tiny.gguf").unlink()
    with pytest.raises(ModelCorrupt, match="lacks the file"):
        models.load_language_model("tiny")
    assert len(calls) == 1


def test_folder_as_source(packaged, tmp_path):
    folder = loading.converted_folder("tiny")
    lm = models.load_language_model("my model", source=folder)
    assert lm.label == "my model"
    assert (lm.vocabulary_size, lm.context_length) == (128, 128)
    with pytest.raises(ValueError, match="'wheel', 'hub', a model folder"):
        models.load_language_model("my model", source=tmp_path / "nothing")


def test_hub_is_asked_only_on_request(packaged, monkeypatch):
    import transformers

    asked = []

    def fake(location, **settings):
        asked.append((location, settings.get("revision")))
        return tiny_llama().model

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fake)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fake)
    lm = models.load_language_model("smollm2-135m", source="hub")
    package = loading.LANGUAGE_MODELS["smollm2-135m"]
    assert set(asked) == {(package.hub_id, package.hub_revision)}
    assert "4-bit" not in lm.label
    asked.clear()
    assert models.as_language_model("someone/model").label == "someone/model"
    assert set(asked) == {("someone/model", None)}


def test_unknown_packaged_name():
    with pytest.raises(ValueError, match="unknown packaged model 'smol'; known: smollm2-135m"):
        models.load_language_model("smol")


def test_as_language_model(packaged):
    lm = tiny_llama()
    assert models.as_language_model(lm) is lm
    pair = models.as_language_model((lm.model, lm.tokenizer))
    assert isinstance(pair, LanguageModel)
    assert pair.model is lm.model
    assert models.as_language_model("tiny") is models.as_language_model("tiny")
    folder = loading.converted_folder("tiny")
    assert models.as_language_model(folder).label == folder.name
    assert models.as_language_model(str(folder)) is models.as_language_model(folder)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("nothing-here", ValueError, "neither a packaged model"),
        ("./a/b", ValueError, "nor a hub id"),
        (3, TypeError, "got int"),
        ((1, 2), TypeError, r"got \(int, int\)"),
        ((tiny_llama().model,), TypeError, "a tuple must be"),
    ],
)
def test_as_language_model_refuses(x, error, message):
    with pytest.raises(error, match=message):
        models.as_language_model(x)


def test_prompts_need_a_tokenizer():
    lm = LanguageModel(tiny_llama().model, None, "")
    with pytest.raises(TypeError, match="no tokenizer"):
        models.PrefixTreeScorer(lm).next_token_logprobs(["abc"], [1])
    ids = CharacterTokenizer()("abc")["input_ids"]
    assert models.PrefixTreeScorer(lm).next_token_logprobs([ids], [1]).shape == (1, 1)


def test_install_runs_pip_with_hashes(monkeypatch):
    seen = {}

    def call(command):
        seen["command"] = command
        seen["text"] = Path(command[-1]).read_text()
        return 0

    monkeypatch.setattr(__main__.subprocess, "call", call)
    assert __main__.main(["install"]) == 0
    assert {"--no-deps", "--require-hashes"} <= set(seen["command"])
    assert seen["text"].splitlines() == loading.requirement_lines()


def test_warm_reports_a_missing_package(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert __main__.main(["warm"]) == 1
    assert "python -m paperkit.models install" in capsys.readouterr().err


@pytest.mark.model
def test_smollm2_gives_the_logits_of_its_gguf_weights():
    lm = models.load_language_model()
    assert lm.label == "SmolLM2-135M-Instruct, 4-bit weights"
    with torch.no_grad():
        ids = lm.tokenizer("The capital of France is", return_tensors="pt").input_ids
        last = lm.model(ids).logits[0, -1]
    # read from the GGUF file itself, before conversion
    assert float(last.logsumexp(0)) == pytest.approx(17.62934684753418, abs=1e-4)
    assert lm.tokenizer.decode(last.argmax()) == " Paris"
