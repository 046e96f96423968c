"""A Python function at every position of a file, into a store: SOURCE.npy OUT.

Says after every block how many were finished by this process.
"""

import json
import sys

import numpy as np

import penstock as ps
from penstock import events
from penstock.spectra import PerPosition


def strongest(spectrum):
    found = 0.0
    for value in np.abs(spectrum):
        found = max(found, float(value))
    return found


source, out = sys.argv[1:]
finished, blocks = 0, 0


def tell(event: events.Event) -> None:
    global finished, blocks
    if isinstance(event, events.RecordingPlanned):
        blocks = event.blocks
    if isinstance(event, events.BlockFinished):
        finished += 1
        print(json.dumps({"blocks": blocks, "finished": finished}), flush=True)


ps.Pipeline([PerPosition(strongest, outputs={"result": "float64"})]).run(
    source,
    out,
    memory="1GiB",
    workers=2,
    progress=False,
    listeners=[tell],
    open_options={"dims": ("position", "frequency")},
)
