"""How far PyTorch's own float32 and bfloat16 are from the stored float64 answers, of every case in tests/fixtures, on the CPU.

    python bench/pytorch/network_errors.py > bench/pytorch/errors.json

Relative L2 errors of the latent (before FSQ or the codebook) and of the decoded picture, and the part of the indices that is equal.
bench/agreement.ts puts them beside ctok's. Another PyTorch or processor rounds elsewhere: expect other last digits. Networks and
weights are those of reference/. tests/fixtures/pytorch_errors.json, which tests/golden reads, has more cases, and of CI8x8 and CV4x8x8
larger pictures.
"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "reference"))
import cosmos_reference
import llamagen_reference
import synthetic_weights
import torch
from network_times import pool_bfloat16_in_float32
from safetensors.torch import load_file

FIXTURES = ROOT / "tests/fixtures"
CASES = {
    ("CI8x8", "small"): "Cosmos-Tokenizer-CI8x8/golden.safetensors",
    **{(name, "small"): f"{name}-small.safetensors" for name in ("DI8x8", "CV4x8x8", "VQ-8")},
    **{(name, "full"): f"{name}-full.safetensors" for name in ("DI8x8", "DV8x16x16", "VQ-16")},
}


def network(name, size):
    """Small ones have the public shape with few channels, as tests/native/spec.h has them."""
    if name.startswith("VQ"):
        small = {"ch": 32, "z": 16, "blocks": 1, "mult": (1, 1, 1, 1)}
        tokenizer = llamagen_reference.Tokenizer(name, **(small if size == "small" else {}))
    else:
        small = {"channels": 32, "mult": (1, 2) if name == "CV4x8x8" else (1, 2, 2)}
        tokenizer = cosmos_reference.Tokenizer(cosmos_reference.spec(name, **(small if size == "small" else {})))
    return synthetic_weights.fill(tokenizer).eval()


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def errors(tokenizer, golden):
    dtype = next(tokenizer.parameters()).dtype
    pixels = (golden["pixels"].float() / 255 * 2 - 1).movedim(-1, 1).to(dtype)
    tokens = golden["indices"] if "indices" in golden else golden["latent"].to(dtype)
    found = {
        "pre_quant": relative(tokenizer.pre_quant(pixels), golden["pre_quant"]),
        "reconstruction": relative(tokenizer.decode(tokens), golden["reconstruction"]),
    }
    if "indices" in golden:
        found["index_agreement"] = float((tokenizer.encode(pixels)[0] == tokens).double().mean())
    return found


@torch.no_grad()
def main():
    pool_bfloat16_in_float32()
    found = {"pytorch": torch.__version__}
    for (name, size), file in CASES.items():
        golden, tokenizer = load_file(FIXTURES / file), network(name, size)
        of_case = found.setdefault(name, {}).setdefault(size, {})
        for dtype in ("float32", "bfloat16"):  # in this order: the weights are exact in both
            of_case[dtype] = errors(tokenizer.to(getattr(torch, dtype)), golden)
        print(f"{name} {size}: done", file=sys.stderr)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
