"""Real web servers from Debian's packages for the tests, over TLS, reached by name.

site       a course as files: lectures that play, a feed, a page
nginx      nginx with one location for each way in which sites serve courses
apache     Apache httpd with the same files
members    nginx with a course for members
proxies    forward proxies: tinyproxy and microsocks
worker     the worker as a process that resolves the servers' name
"""
