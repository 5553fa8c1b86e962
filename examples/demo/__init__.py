"""The demo: a real course site (`site`), real media made on the spot (`media`), and the four cases shown live (`show`).

`python -m examples.demo.site` starts the site alone, to try Enrollgate on. Nothing in the product imports this package.
"""
