"""`python -m runner.export`: the model of a saved run, in a folder of its own."""
