"""What a run leaves behind: its folder, its trackers, and what the terminal shows."""
