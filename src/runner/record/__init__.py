"""The record of a run: its folder, its trackers and its terminal output."""
