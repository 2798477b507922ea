"""PyTorch on the same GPU, the rest: the video in bfloat16 and the image in float32 (without TF32 on both sides)."""
from gpucheck import peers

TITLE, SECONDS = "Beside PyTorch, the rest", 70


def wanted(o):
    """Cases, modes, precision. A trial has tried the same before."""
    return [] if o.tiny else [(o.cases["video"], ("jit", "channels-last"), "bf16"), (o.cases["image"], ("jit",), "f32")]


def rows(o):
    return [peers.row(case, mode, precision) for case, modes, precision in wanted(o) for mode in modes]


def run(o, say):
    for i, (case, modes, precision) in enumerate(wanted(o)):
        peers.measure(o, say, case, modes, precision, seconds=o.part_left() / (len(wanted(o)) - i))


def tell(found):
    return []  # with parts/peer.py
