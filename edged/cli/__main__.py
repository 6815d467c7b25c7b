"""``python -m edged.cli`` is ``edgectl``."""

from edged.cli import main

main()
