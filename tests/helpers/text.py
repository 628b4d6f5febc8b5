"""A text to train on."""

POEM = "The owl and the pussy-cat\nwent to sea\n\nIn a beautiful\npea-green boat\n" * 9
