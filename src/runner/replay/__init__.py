"""`python -m runner.replay`: does a recorded run give the same numbers again?"""
