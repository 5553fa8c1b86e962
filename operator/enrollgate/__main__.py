"""`python -m enrollgate` is the `enrollgate` command."""

from enrollgate.commands.cli import main

if __name__ == "__main__":
    main()
