"""The authors' checkpoints: a tiny random one of the same layout, against a forward of its own."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from paperkit.absorbing_diffusion import LogLinearSchedule, load_reference_model, sample

TOKENS, WIDTH, BLOCKS, HEADS = 11, 16, 2, 2


@pytest.fixture
def checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {
        "vocab_embed.embedding": random(TOKENS + 1, WIDTH),
        "rotary_emb.inv_freq": random(WIDTH // HEADS // 2),
        "output_layer.norm_final.weight": 1 + random(WIDTH),
        "output_layer.norm_final.bias": random(WIDTH),
        "output_layer.linear.weight": random(TOKENS + 1, WIDTH),
        "output_layer.linear.bias": random(TOKENS + 1),
    }
    for k in range(BLOCKS):
        tensors |= {
            f"blocks.{k}.norm1.weight": 1 + random(WIDTH),
            f"blocks.{k}.norm1.bias": random(WIDTH),
            f"blocks.{k}.norm2.weight": 1 + random(WIDTH),
            f"blocks.{k}.norm2.bias": random(WIDTH),
            f"blocks.{k}.attn_qkv.weight": random(3 * WIDTH, WIDTH),
            f"blocks.{k}.attn_out.weight": random(WIDTH, WIDTH),
            f"blocks.{k}.mlp.0.weight": random(4 * WIDTH, WIDTH),
            f"blocks.{k}.mlp.0.bias": random(4 * WIDTH),
            f"blocks.{k}.mlp.2.weight": random(WIDTH, 4 * WIDTH),
            f"blocks.{k}.mlp.2.bias": random(WIDTH),
        }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "tokens": TOKENS,
        "model": {"hidden_size": WIDTH, "n_blocks": BLOCKS, "n_heads": HEADS, "dropout": 0.02},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, tensors


def plain_forward(tensors, x):
    """The network written out head by head, with complex numbers for the rotary positions."""
    h = tensors["vocab_embed.embedding"][x]
    half = WIDTH // HEADS // 2
    frequency = 10_000.0 ** (-np.arange(half) / half)
    turn = torch.from_numpy(np.exp(1j * np.arange(x.shape[1])[:, None] * frequency))

    def rotate(v):
        z = torch.complex(v[..., :half].double(), v[..., half:].double()) * turn
        return torch.cat((z.real, z.imag), -1).float()

    for k in range(BLOCKS):
        t = {n.removeprefix(f"blocks.{k}."): v for n, v in tensors.items()}
        y = F.layer_norm(h, (WIDTH,)) * t["norm1.weight"] + t["norm1.bias"]
        q, key, value = (y @ t["attn_qkv.weight"].T).split(WIDTH, -1)
        heads = []
        for a in range(HEADS):
            cut = slice(a * WIDTH // HEADS, (a + 1) * WIDTH // HEADS)
            score = rotate(q[..., cut]) @ rotate(key[..., cut]).transpose(1, 2)
            heads.append((score / (WIDTH // HEADS) ** 0.5).softmax(-1) @ value[..., cut])
        h = h + torch.cat(heads, -1) @ t["attn_out.weight"].T
        y = F.layer_norm(h, (WIDTH,)) * t["norm2.weight"] + t["norm2.bias"]
        y = F.gelu(y @ t["mlp.0.weight"].T + t["mlp.0.bias"], approximate="tanh")
        h = h + y @ t["mlp.2.weight"].T + t["mlp.2.bias"]
    h = F.layer_norm(h, (WIDTH,))
    h = h * tensors["output_layer.norm_final.weight"] + tensors["output_layer.norm_final.bias"]
    out = h @ tensors["output_layer.linear.weight"].T + tensors["output_layer.linear.bias"]
    return out[..., :TOKENS]


def test_same_output(checkpoint):
    folder, tensors = checkpoint
    model = load_reference_model(folder)
    assert not model.training
    x = torch.randint(0, TOKENS + 1, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain_forward(tensors, x), rtol=1e-4, atol=1e-5)
    drawn = sample(model, (2, 9), 8, LogLinearSchedule())
    assert int(drawn.tokens.max()) < TOKENS


def test_broken_checkpoints(checkpoint):
    folder, tensors = checkpoint
    cut = {n: t for n, t in tensors.items() if "mlp.2.bias" not in n}
    save_file(cut, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor 'blocks.0.mlp.2.bias'"):
        load_reference_model(folder)
    save_file(
        tensors | {"vocab_embed.embedding": torch.zeros(5, WIDTH)}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match="shape"):
        load_reference_model(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config"):
        load_reference_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_reference_model(folder)
