"""SOURCE TARGET MEMORY: what ``penstock convert`` does, at the command line."""

from __future__ import annotations

import sys

from timed import say, timed

from penstock.commands.main import app
from penstock.memory.accounting import process_base

source, target, memory = sys.argv[1:]
arguments = ["convert", source, target, "--memory", memory, "--overwrite", "--quiet"]
process_base()  # (imports what a run imports)
code, said = timed(lambda: app(arguments, standalone_mode=False))
assert not code, code
say(**said)
