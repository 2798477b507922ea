"""PyTorch on the same GPU: the image and the batch, traced (jit, contiguous: as users run the public checkpoints) and channels-last,
each case in a process of its own (torch_peer.py), and ours before and after it. Before them the roof: a large product and a copy."""
from gpucheck import peers

TITLE, SECONDS = "Beside PyTorch", 90
MODES, PRECISION = ("jit", "channels-last"), "bf16"


def cases(o):
    return [o.cases[name] for name in (("image",) if o.tiny else ("image", "batch"))]


def rows(o):
    return ["roof", *(peers.row(case, mode, PRECISION) for case in cases(o) for mode in MODES)]


def run(o, say):
    peers.measure_roof(o, say)
    for i, case in enumerate(cases(o)):
        peers.measure(o, say, case, MODES, PRECISION, seconds=o.part_left() / (len(cases(o)) - i))


def tell(found):
    return peers.tell(found, ("peer", "peers", "compile"))
