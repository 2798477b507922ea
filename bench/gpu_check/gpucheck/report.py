"""The report, for whoever mends what failed: failures first, each with its whole text and what to do; what was not measured and
why; what was expected beside what was found; then the tables of all parts. Called by results.py after every change."""
import datetime
import importlib
import time

from gpucheck import expected
from gpucheck.options import HERE


def render(found):
    lines = [*head(found), *failures(found), *not_measured(found), *guarded(expected.tell, found)]
    for part in found.parts:
        module = importlib.import_module(f"gpucheck.parts.{part}")
        told = guarded(module.tell, found)
        if told:
            lines += [f"## {module.TITLE}", "", *told, ""]
    return "\n".join(lines).rstrip() + "\n"


def guarded(tell, found):
    """What it tells; where a program printed what no table was made for, that. The report is whole whatever there is to tell."""
    try:
        return tell(found)
    except Exception as error:
        return [f"This table could not be made: {type(error).__name__}: {error}. results.json has its rows."]


def head(found):
    o, machine = found.o, found.get("preflight", "machine")
    seconds = time.time() - o.began
    name = machine.data.get("name", "No GPU") if machine else "GPU check"
    commit = (HERE / "commit").read_text().strip() if (HERE / "commit").exists() else "unknown"
    state = f"The check ended after {seconds:.0f} s." if found.is_whole else (
        f"**Not whole: last written at {seconds:.0f} s, in `{found.now or 'nothing'}`.** If the check is over, it was killed then.")
    trial = " A trial with small networks: its times tell nothing." if o.tiny else ""
    return [f"# {name}: ctok's GPU check", "", f"{datetime.date.today()}; ctok {commit}; `run.sh {' '.join(o.argv)}`. {state}{trial}", "",
            f"**{found.summary()}**", ""]


def failures(found):
    lines = []
    for row in found.of_state("failed"):
        lines += [f"### {row.part}: {row.name}", "", "```text", row.text.replace("```", "'''"), "```", ""]
        lines += [f"Next: {row.next}", ""] if row.next else []
    return ["## Failures", "", *lines] if lines else []


def not_measured(found):
    rows = found.of_state("running", "cut off", "left out", "not reached")
    if not rows:
        return []
    states = {"running": "cut off"}
    lines = []
    for row in rows:
        why = " ".join(f"{row.text} {row.next}".split())[:300].replace("|", "/")
        lines.append(f"| {row.part} | {row.name} | {states.get(row.state, row.state)} | {why} |")
    return ["## Not measured, or not to the end", "", "`./run.sh --only PART --budget SECONDS` fills it.", "",
            "| part | row | | why |", "| --- | --- | --- | --- |", *lines, ""]
