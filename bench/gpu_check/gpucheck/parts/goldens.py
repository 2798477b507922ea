"""All other networks against float64 answers, and how many indices of all bfloat16 networks together are equal."""
from gpucheck import golden, results

TITLE, SECONDS = "Networks against float64 answers", 110
TOGETHER = "bf16 indices of all"
NEXT = ("Every latent is within its limit and yet more indices differ than in PyTorch's bfloat16: look at pre_quant's error by channel, as a "
        "bias tips them.")


def rows(o):
    return [*(g.row(p) for g in golden.others(o) for p in golden.PRECISIONS), TOGETHER]


def run(o, say):
    done = [row["data"] for part in ("preflight", "golden") for row in results.earlier(o, part)]
    done += [golden.check(o, say, g, precision) for g in golden.others(o) for precision in golden.PRECISIONS]
    check_together(say, [data for data in done if data])


def check_together(say, done):
    """Few indices a network: only together do they tell."""
    say.running(TOGETHER)
    done = [d for d in done if d.get("precision") == "bf16" and d.get("tokens") and d["limits"].get("index_agreement") is not None]
    tokens = sum(d["tokens"] for d in done)
    equal, peer = tokens - sum(d["different"] for d in done), sum(d["tokens"] * d["limits"]["index_agreement"] for d in done)
    text = f"{equal} of {tokens} indices of {len(done)} networks are equal; PyTorch's bfloat16: {peer:.0f}"
    if not tokens:
        return say.left_out(TOGETHER, "no network with indices ran in bf16")
    if equal < peer - 0.5:
        return say.failed(TOGETHER, f"expected at least {peer:.0f} equal, found {text}", NEXT)
    say.good(TOGETHER, text)


def tell(found):
    limits = ["Relative L2. Limits: float32 2e-5 and equal indices; bfloat16 0.9 of PyTorch's own error.", ""]
    together = found.get("goldens", TOGETHER)
    rows_told = golden.tell(found, ("preflight", "golden", "goldens"))
    return [*limits, *rows_told, "", f"{TOGETHER}: {together.text}" if together and together.state == "good" else ""] if rows_told else []
