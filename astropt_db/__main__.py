"""``python -m astropt_db``: the same as the console script ``astropt-db``."""

from astropt_db.cli.main import main

if __name__ == "__main__":
    main()
