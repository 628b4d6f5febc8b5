"""Text of one's own as windows of tokens."""
