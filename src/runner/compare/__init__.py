"""Reads run folders and says which runs are better, and whether that can be said."""
