"""Does the pipeline do what the configuration says?"""
