"""``python -m paretune``, and ``torchrun -m paretune`` for several processes: the command line."""

from paretune.cli.main import main

main()
