"""`python -m runner`."""

from runner import signals

if __name__ == "__main__":
    signals.watch()  # before the imports, which take a second
    from runner.cli import main

    main()
