"""`python -m wampkit`, the same as the command `wampkit`."""

from .cli.main import main

if __name__ == "__main__":
    main()
