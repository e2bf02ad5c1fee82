"""Carries out a plan: the store of finished steps, the worker processes that make the others, and progress."""
