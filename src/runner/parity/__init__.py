"""`python -m runner.parity`: do the frameworks take the same steps?"""
