"""Decides: settings and a pinned source become a Plan, the steps and the names of all that will be published. Pure."""
