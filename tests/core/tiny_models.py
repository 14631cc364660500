"""Random causal language models small enough that every test can afford many passes."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from paperkit.models import LanguageModel

VOCABULARY = 128


class CharacterTokenizer:
    """One token a character (its code, below 128), except that "qu" is one token of its own (1)."""

    bos_token = None
    eos_token_id = 2
    pad_token_id = 0
    chat_template = None

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": [1 if c == "\x01" else ord(c) for c in text.replace("qu", "\x01")]}

    def decode(self, ids, skip_special_tokens=False):
        return "".join("qu" if i == 1 else chr(i) for i in ids if not skip_special_tokens or i > 2)


def tiny_llama(seed=0, tokenizer=None, **changes):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # large enough that a wrong mask shows
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    return LanguageModel(model, tokenizer or CharacterTokenizer(), "tiny Llama")


def tiny_gpt2(seed=0, **changes):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=2,
        **changes,
    )
    return LanguageModel(GPT2LMHeadModel(config).eval(), CharacterTokenizer(), "tiny GPT-2")


def one_by_one(lm, ids):
    """Log-probabilities (L, V) of a single sequence by a plain pass: the oracle."""
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)
