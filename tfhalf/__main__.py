"""``python -m tfhalf``."""

from tfhalf.cli import main

main()
