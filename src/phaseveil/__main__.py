"""``python -m phaseveil`` is the ``phaseveil`` command."""

from phaseveil.cli import main

if __name__ == "__main__":
    main()
