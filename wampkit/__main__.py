"""`python -m wampkit`, the same as the command `wampkit`."""

from .cli import main

if __name__ == "__main__":
    main()
