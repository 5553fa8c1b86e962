"""The demo: a course site (`site`), generated media (`media`), and the four cases live (`show`).

`python -m examples.demo.site` starts the site alone, to try Enrollgate with it. Nothing in the
product imports this package.
"""
