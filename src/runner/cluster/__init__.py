"""Runs on other machines: submitted, monitored and reported."""
