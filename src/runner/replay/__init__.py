"""`python -m runner.replay`: does a recorded run come out the same again?"""
