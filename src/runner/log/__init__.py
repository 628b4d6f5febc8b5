"""What a run leaves behind: its folder, its W&B mirror, and what the terminal shows."""
