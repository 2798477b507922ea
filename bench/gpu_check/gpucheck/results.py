"""The rows of the report and what is known of each, on the disk after every change. check.py keeps the Results; a part says what
it finds through Say, an event a line on its standard output.

States of a row: not reached, running (read by who finds the file: cut off), good, failed, left out, cut off.
"""
import json
import os
import time
from dataclasses import asdict, dataclass, field

from gpucheck import children, report


@dataclass
class Row:
    part: str
    name: str
    state: str = "not reached"
    text: str = "the check has not come to it"
    next: str = ""  # what to do about a failure
    data: dict = field(default_factory=dict)


class Say:
    """What a part says of its rows."""

    def __init__(self, o):
        self.o = o

    def event(self, row, **what):
        print(json.dumps({"row": row, **what}), flush=True)

    def running(self, row):
        self.event(row, state="running", text="it was under way when the check was ended")

    def good(self, row, text="", **data):
        self.event(row, state="good", text=text, data=data)

    def failed(self, row, text, next="", **data):
        self.event(row, state="failed", text=text, next=next, data=data)

    def left_out(self, row, why):
        self.event(row, state="left out", text=why)

    def cut_off(self, row, why, next="", **data):
        self.event(row, state="cut off", text=why, next=next, data=data)

    def add(self, row, **items):
        """Appends to lists of the row's data while it runs: what is there is kept if it does not end."""
        self.event(row, add=items)


class Results:
    def __init__(self, o, rows_of_parts):
        self.o, self.parts, self.now, self.is_whole = o, list(rows_of_parts), None, False
        self.rows = [Row(part, name) for part, names in rows_of_parts.items() for name in names]
        self.save()

    def of_part(self, part):
        return [row for row in self.rows if row.part == part]

    def of_state(self, *states):
        return [row for row in self.rows if row.state in states]

    def get(self, part, name):
        return next((row for row in self.rows if (row.part, row.name) == (part, name)), None)

    def summary(self):
        counts = {state: len(self.of_state(state)) for state in ("failed", "cut off", "not reached", "left out", "good")}
        return ", ".join(f"{count} {state}" for state, count in counts.items())

    # ---------------------------------------------------------------- as the check goes on
    def begin(self, part):
        self.now = part
        self.save()

    def apply(self, line):
        """An event of the part that runs; other lines are passed over."""
        try:
            event = json.loads(line)
        except ValueError:
            return
        if "crash" in event:
            return self.crash(event["crash"])
        row = self.get(self.now, event["row"])
        row.state, row.text, row.next = (event.get(key, getattr(row, key)) for key in ("state", "text", "next"))
        row.data.update(event.get("data", {}))
        for name, item in event.get("add", {}).items():
            row.data.setdefault(name, []).append(item)
        if row.state not in ("running", "not reached"):
            children.say(self.o, f"{self.now}: {row.name}: {row.state} {' '.join(row.text.split())[:200]}")
        self.save()

    def crash(self, text):
        row = next((r for r in self.of_part(self.now) if r.state == "running"), None)
        if row:
            row.state, row.text = "failed", text
            row.next = "This is a fault of the check itself: mend gpucheck/parts, and run it again with --only."
        self.save()

    def end(self, part, state, why):
        """The part is over: rows that it left under way are in `state`, rows that it did not come to are not reached."""
        self.now = None
        for row in self.of_part(part):
            if row.state == "running":
                row.state, row.text = state, why
            elif row.state == "not reached":
                row.text = why
        children.say(self.o, f"{part}: {', '.join(sorted({row.state for row in self.of_part(part)}))}")
        self.save()

    def finish(self):
        for row in self.of_state("running"):
            row.state = "cut off"
        self.now, self.is_whole = None, True
        self.save()

    # ---------------------------------------------------------------- on the disk
    def save(self):
        self.write("results.md", report.render(self))
        rows = [asdict(row) for row in self.rows]
        self.write("results.json", json.dumps({"seconds": round(time.time() - self.o.began), "rows": rows}, indent=1))

    def write(self, name, text):
        """Under another name first: the file is there whole, before and after."""
        partial = self.o.out / f".{name}.part"
        partial.write_text(text)
        os.replace(partial, self.o.out / name)


def earlier(o, part):
    """In a part's process: rows of a part before it, as dictionaries."""
    return [row for row in json.loads((o.out / "results.json").read_text())["rows"] if row["part"] == part]
