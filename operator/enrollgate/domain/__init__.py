"""Tasks, runs, outcomes and policies, and what to do about them: pure data and decisions.

Nothing here reads a clock, a database, a file or the network, and nothing but the standard library
is imported. Every other package may import this one.
"""
