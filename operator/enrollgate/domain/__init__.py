"""What a task, a run, an outcome and a policy are, and what to do about them: pure data and pure decisions.

Nothing here reads a clock, a database, a file or the network, and nothing but the standard library is imported. Every other
package may import this one.
"""
