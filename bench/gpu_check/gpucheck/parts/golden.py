"""Two networks of full size against float64 answers, in both precisions."""
from gpucheck import golden

TITLE, SECONDS = "Two whole networks", 45


def rows(o):
    return [g.row(p) for g in golden.two_of_full_size(o) for p in golden.PRECISIONS]


def run(o, say):
    for g in golden.two_of_full_size(o):
        for precision in golden.PRECISIONS:
            golden.check(o, say, g, precision)


def tell(found):
    return []  # with the others, by parts/goldens.py
