"""`python -m runner.predict`: what a saved run gives for each example, as a table."""
