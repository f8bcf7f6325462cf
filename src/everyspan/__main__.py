"""`python -m everyspan` is `everyspan`."""

from everyspan.cli import main

if __name__ == "__main__":
    main()
