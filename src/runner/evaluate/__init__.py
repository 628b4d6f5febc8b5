"""`python -m runner.evaluate`: the metrics of a saved run, on any split or data."""
