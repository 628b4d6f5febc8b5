"""Runs on other machines: submitted, watched, and told of here."""
