"""Does a published table come out again, and if not, which open factor explains it?"""
