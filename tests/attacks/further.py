"""Leak attempts beyond the list: each does something if, and only if, the target is in the data.

`BIT` is true on `patients.csv`, false on `patients_neighbour.csv` and on dummy rows (no invented blood
pressure comes near it). So one run on each file proves two things at once: that the attempt is live, and
what it is worth. Nothing but two views may come of it:

- `SILENT`: the author sees the same bytes on both files;
- `FAILS`: on the target's file the run failed, and says so in the very words of every other failed run
  (without the target it runs to its end, as the dummy run before it shows);
- `EITHER`: one of these two.
"""

from __future__ import annotations

from attacks.cases import NEIGHBOUR, PATIENTS, TARGET, Case, Evidence, Run
from attrs import frozen

BIT = "bool((df.sbp > 270).any())"
WHO = "df.loc[df.age.idxmax()].patient_id"

ASK = f"""\
from opensafely_lab import safe
data = safe.dataset('{PATIENTS}')
safe.table(data, by={{'sex': safe.listed(data.sex, ['F', 'M'])}}, name='by sex')"""
SHOWN = {("F",): "1265", ("M",): "1145"}  # of ASK, on either file

REPORT = "/outputs/.osl"


@frozen
class Attempt:
    """One attempt: its cells, and where it shows in what a run leaves (None where its failing shows it)."""

    id: str
    title: str
    cells: tuple[str, ...]
    evidence: Evidence | None = None

    @property
    def case(self) -> Case:
        return Case(
            id=self.id,
            title=self.title,
            runs=[Run(PATIENTS, self.cells)],
            expected=["withheld"],
            same_when_target_changes=True,
            evidence=self.evidence or Evidence("none"),
        )


def silent(id: str, title: str, *cells: str) -> Attempt:
    return Attempt(id, title, cells, Evidence("left", TARGET))


def fails(id: str, title: str, *cells: str) -> Attempt:
    return Attempt(id, title, cells)


# What is in a cell's way to the author does not depend on what the cell did.
SILENT = (
    silent("fur-01", "Prints the whole dataset", f"{ASK}\nprint(df.to_string())"),
    silent("fur-02", "Prints only if a bit is set", ASK, f"if {BIT}: print({WHO})"),
    silent(
        "fur-03",
        "Shows everything as HTML, PNG and SVG if a bit is set",
        f"""\
from IPython.display import HTML, SVG, Image, display
if {BIT}:
    who = {WHO}
    display(HTML(df.to_html()), SVG(f'<svg xmlns="http://www.w3.org/2000/svg"><text>{{who}}</text></svg>'))
    display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + who.encode(), format='png'))""",
    ),
    silent(
        "fur-04",
        "Widget state of many megabytes of rows",
        f"""\
from IPython.display import display
state = {{str(n): {{'state': {{'value': df.to_csv()}}}} for n in range(20 if {BIT} else 0)}}
display({{'application/vnd.jupyter.widget-state+json': {{'state': state}}, 'text/plain': 'IntSlider()'}}, raw=True)""",
    ),
    silent(
        "fur-05",
        "Writes into cell metadata: message headers carry the identifier as their date",
        f"""\
session = get_ipython().kernel.session
real = session.msg_header
if {BIT}:
    session.msg_header = lambda kind: {{**real(kind), 'date': {WHO}}}""",
        "x = 1",
        f"print({WHO} if {BIT} else '')",
    ),
    silent(
        "fur-06",
        "Forged messages of the kernel: results, displays, a reply with a payload",
        f"""\
kernel = get_ipython().kernel
if {BIT}:
    who = {WHO}
    for kind, content in [
        ('stream', {{'name': 'stdout', 'text': who}}),
        ('execute_result', {{'execution_count': 2717, 'data': {{'text/plain': who}}, 'metadata': {{'who': who}}}}),
        ('display_data', {{'data': {{'application/vnd.opensafely.table+json': [[who]]}}, 'metadata': {{}}}}),
        ('clear_output', {{'wait': False}}),
        ('update_display_data', {{'data': {{}}, 'metadata': {{}}, 'transient': {{'display_id': who}}}}),
        ('comm_open', {{'comm_id': who, 'target_name': 'x', 'data': {{'state': {{'value': who}}}}}}),
    ]:
        kernel.session.send(kernel.iopub_socket, kind, content, parent=kernel.get_parent())
    get_ipython().set_next_input(who)
    print(who)""",
    ),
    silent(
        "fur-07",
        "Passes a patient off as a request of safe, and as a finished table",
        f"""\
from IPython.display import display
if {BIT}:
    who = {WHO}
    display({{'application/vnd.opensafely.request+json': {{'id': 0, 'name': who}}, 'text/plain': who}}, raw=True)
    display({{'application/vnd.opensafely.table+json': {{'version': 1, 'name': who, 'rows': [[who]]}}}}, raw=True)
    display({{'application/vnd.opensafely.held+json': {{'sentence': who, 'next_step': who}}}}, raw=True)""",
    ),
    silent(
        "fur-08",
        "Lies about its own report: status, cells, execution counts",
        f"""\
import json
if {BIT}:
    who = {WHO}
    open('{REPORT}/cells.json', 'w').write(json.dumps({{'outputs': [0, 1, 2, 3], 'execution_counts': {{'0': 2717}}}}))
    open('{REPORT}/executed.ipynb', 'w').write(who)
    open('{REPORT}/{TARGET}.json', 'w').write(who)
    open('/outputs/{TARGET}.txt', 'w').write(who)
    get_ipython().execution_count = 2716
x = 1""",
        "x",
    ),
    silent(
        "fur-10",
        "Patched safe, json and pandas that lie",
        f"""\
import json, pandas
from opensafely_lab import safe
from opensafely_lab.safe import asking
if {BIT}:
    who = {WHO}
    asking.TableAnswer._describe = lambda self: who
    pandas.read_csv = lambda *a, **k: df.iloc[:1]
    json.load = lambda *a, **k: who
    import opensafely_lab.disclosure.gate as gate, opensafely_lab.disclosure.redaction as redaction
    gate.judge = redaction.protect = lambda *a, **k: who
    redaction.redact = lambda count, policy: count""",
        ASK,
    ),
    silent(
        "fur-11",
        "Names of output files, links out of the folder, odd bytes, far too many",
        f"""\
import os
if {BIT}:
    who = {WHO}
    for n in range(1500):
        open(f'/outputs/{{n}}.txt', 'w').close()
    open(f'/outputs/{{who}}.csv', 'w').write(who)
    os.symlink('/inputs/0/{PATIENTS}', '/outputs/all.csv')
    open(b'/outputs/\\xff\\n.csv', 'w').write(who)
    os.makedirs('/outputs/' + '/'.join('d' * 30))
    os.mkdir('/outputs/shut', 0o000)""",
    ),
    silent(
        "fur-12",
        "Text for the run's own log",
        f"""\
import os
if {BIT}:
    os.write(1, ({WHO} + '\\n').encode())
    for place in ('/proc/1/fd/1', '/proc/1/fd/2', '/proc/self/fd/2'):
        try:
            open(place, 'w').write({WHO})
        except OSError:
            pass""",
    ),
)

# The only other thing an author can learn: that the run failed. One code, whatever the reason.
FAILS = (
    fails("fur-31", "Raises an exception with a patient's values", f"if {BIT}: raise ValueError({WHO}, df.sbp.max())"),
    fails(
        "fur-32",
        "A request named after a patient",
        f"name = {WHO}.replace('_', '-') if {BIT} else 'by sex'\n{ASK.replace(repr('by sex'), 'name')}",
    ),
    fails("fur-33", "One request dropped on real data", ASK, f"if not {BIT}: safe.table(data, name='all')"),
    fails("fur-34", "One request more on real data", ASK, f"if {BIT}: safe.table(data, name='all')"),
    fails("fur-35", "Another edge in a request", f"{ASK}\nsafe.table(data, by=[data.age.cut([50 + 10 * {BIT}])])"),
    fails("fur-36", "exit()", f"if {BIT}: exit()", ASK),
    fails("fur-37", "sys.exit with a patient's value", f"import sys\nif {BIT}: sys.exit({WHO})", ASK),
    fails("fur-38", "os._exit with a chosen code", f"import os\nif {BIT}: os._exit(71)", ASK),
    fails("fur-39", "kill -9 of the own kernel", f"import os\nif {BIT}: os.kill(os.getpid(), 9)", ASK),
    fails("fur-40", "SIGTERM to the own kernel", f"import os\nif {BIT}: os.kill(os.getpid(), 15)", ASK),
    fails(
        "fur-41",
        "Every thread of the kernel waits for ever, then it is gone",
        f"import os, signal\nif {BIT}: signal.alarm(2); signal.pause()",
        ASK,
    ),
    fails(
        "fur-42", "A huge list of requests", ASK, f"if {BIT}: open('{REPORT}/requests.json', 'w').write(' ' * 300_000)"
    ),
    fails(
        "fur-43",
        "A list of requests beyond what is collected",
        ASK,
        f"if {BIT}: open('{REPORT}/requests.json', 'w').write(' ' * (3 << 20))",
    ),
    fails(
        "fur-44",
        "Requests written by hand, with other cell numbers",
        ASK,
        f"""\
import json
asked = json.load(open('{REPORT}/requests.json'))
asked['requests'][0]['cell'] += 27 * {BIT}
json.dump(asked, open('{REPORT}/requests.json', 'w'))""",
    ),
    fails(
        "fur-45",
        "The list of requests is a link to the records",
        ASK,
        f"""\
import os
if {BIT}:
    os.remove('{REPORT}/requests.json')
    os.symlink('/inputs/0/{PATIENTS}', '{REPORT}/requests.json')""",
    ),
    fails(
        "fur-46",
        "The list of requests is the records",
        ASK,
        f"import shutil\nif {BIT}: shutil.copyfile('{PATIENTS}', '{REPORT}/requests.json')",
    ),
    fails(
        "fur-47",
        "The list of requests is a pipe",
        ASK,
        f"import os\nif {BIT}: os.remove('{REPORT}/requests.json'); os.mkfifo('{REPORT}/requests.json')",
    ),
    fails("fur-48", "JSON that hurts", ASK, f"if {BIT}: open('{REPORT}/requests.json', 'w').write('[' * 100_000)"),
    fails(
        "fur-49",
        "IOPub flood",
        f"for n in range(30_000 if {BIT} else 1): get_ipython().display_pub.publish({{'text/plain': str(n)}})",
        ASK,
    ),
    fails("fur-50", "Output beyond the limit of bytes", f"print('x' * ((40 << 20) if {BIT} else 1))", ASK),
    fails("fur-51", "Eats all memory", f"kept = []\nwhile {BIT}: kept.append(bytearray(1 << 26))", ASK),
    fails(
        "fur-52", "An execution count that is none", f"if {BIT}: get_ipython().execution_count = 10**6", "x = 1", ASK
    ),
    fails(
        "fur-53",
        "Its report is a folder",
        ASK,
        f"import os\nif {BIT}: os.makedirs('{REPORT}/cells.json/x'); os.makedirs('{REPORT}/status.json/x')",
    ),
    fails(
        "fur-54", "Its report has moved away", ASK, f"import os\nif {BIT}: os.rename('{REPORT}', '/outputs/elsewhere')"
    ),
    fails(
        "fur-55",
        "An exception of a class named after a patient, without text",
        f"if {BIT}: raise type({WHO}, (BaseException,), {{}})()",
        ASK,
    ),
    fails("fur-56", "KeyboardInterrupt", f"if {BIT}: raise KeyboardInterrupt({WHO})", ASK),
    fails(
        "fur-57",
        "Reads the value of a request",
        f"{ASK.replace('safe.table', 'answer = safe.table')}\nif {BIT}: print(answer.to_pandas())",
    ),
    fails(
        "fur-59",
        "A forged message that nbclient chokes on",
        f"""\
kernel = get_ipython().kernel
content = {{'comm_id': 'x', 'target_name': 'jupyter.widget', 'data': {{'state': {{'value': {WHO}}}}}}}
if {BIT}: kernel.session.send(kernel.iopub_socket, 'comm_open', content, parent=kernel.get_parent())""",
        ASK,
    ),
    fails("fur-58", "Segmentation fault", f"import ctypes\nif {BIT}: ctypes.string_at(0)", ASK),
)

# Whichever of the two it turns out to be: a race, or a matter of signals.
EITHER = (
    silent(
        "fur-09",
        "A process that outlives the kernel and writes into the report",
        f"""\
import subprocess, sys
loop = '''
import time
end = time.time() + 20
while time.time() < end:
    for name in ('cells.json', 'executed.ipynb', 'error.json'):
        try:
            open("{REPORT}/" + name, "w").write('{{"outputs": [1, 2], "execution_counts": {{}}}}')
        except OSError:
            pass
'''
if {BIT}:
    open('/outputs/{TARGET}.txt', 'w').write('live')
    subprocess.Popen([sys.executable, '-c', loop], start_new_session=True)""",
    ),
    silent(
        "fur-13",
        "kill -9 of what executes the notebook, which is the init of its sandbox",
        f"""\
import os
if {BIT}:
    open('/outputs/{TARGET}.txt', 'w').close()
    os.kill(os.getppid(), 9)
    os.kill(-1, 15)""",
        ASK,
    ),
)

# Arithmetic that goes wrong for the target alone. An answer that is held for it would tell of it.
ODD = (
    "1 / (data.sbp - 271.7) > 0",
    "2.0 ** ((data.sbp - 270) * 5000) > 0",
    "(-1.0) ** (data.sbp / 100) > 0",
    "0.0 ** (270 - data.sbp) > 0",
    "((data.sbp - 270) * 1e308 * 1e308).as_int() > 0",
    "(data.sbp * 1e300).as_int() + 1 > 0",
    "((data.sbp - 260).as_int() * 900_000_000_000_000_000) * 9_000_000_000 > 0",
    "data.age * (data.sbp.as_int() * 100_000_000_000_000_000) > 0",
    "-((data.sbp.as_int() * 34_000_000_000_000_000) - 9_223_372_036_854_775_807) > 0",
    "(data.sbp.as_int() // (data.sbp.as_int() - 271)) > 0",
    "(data.sbp // (data.sbp - 271.7)) > 0",
    "(data.died_date + safe.days((data.sbp.as_int() - 270) * 3_000_000)).year > 0",
    "(data.died_date + safe.months((data.sbp.as_int() - 200) * 1_700)).year > 0",
    "(data.died_date + safe.years((data.sbp.as_int() - 200) * 140)).year > 0",
    "(data.died_date - safe.years(data.sbp.as_int() * 10)).year > 0",
)


def odd_request(number: int, condition: str) -> str:
    """Asks for everybody, whether the condition holds, fails or is missing for them."""
    return f"""\
odd = {condition}
safe.table(data.where(odd.is_null() | odd.is_not_null()), by={{'sex': SEX}}, name='where {number}')
safe.table(data, by={{'sex': SEX, 'odd': odd}}, name='by {number}')"""


ODD_RUN = Run(
    PATIENTS,
    [
        f"""\
from opensafely_lab import safe
data = safe.dataset('{PATIENTS}')
SEX = safe.listed(data.sex, ['F', 'M'])""",
        *(odd_request(number, condition) for number, condition in enumerate(ODD)),
    ],
)

FILES = (PATIENTS, NEIGHBOUR)
