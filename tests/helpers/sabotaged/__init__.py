"""Pipelines that do something other than what they are told, as a user's might."""
