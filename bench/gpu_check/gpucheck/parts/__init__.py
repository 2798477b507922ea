"""Each part is a module: TITLE, SECONDS (its deadline), rows(o), run(o, say), which says what it finds of each row, and
tell(found), lines of Markdown about its rows. gpucheck/order.py has the order."""
from importlib import import_module

from gpucheck.order import NAMES

PARTS = {name: import_module(f"gpucheck.parts.{name}") for name in NAMES}
