"""``python -m penstock``: the command line."""

from penstock.commands.main import main

main()
