"""``python -m edgenode`` is the ``edgenode`` command."""

from edgenode.cli import main

if __name__ == "__main__":
    main()
