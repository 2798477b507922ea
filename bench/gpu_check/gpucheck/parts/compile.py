"""torch.compile of the image: last, as it may take minutes, or for ever."""
from gpucheck import peers

TITLE, SECONDS = "Beside torch.compile", 150


def rows(o):
    return [peers.row(o.cases["image"], "compile", "bf16")]


def run(o, say):
    peers.measure(o, say, o.cases["image"], ("compile",), "bf16", seconds=o.part_left())


def tell(found):
    return []  # with parts/peer.py
