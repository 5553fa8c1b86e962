"""A site that answers as Udemy does, behind nginx with TLS and gzip, under Udemy's own names.

course   what the course contains, and the files of it
server   the API and the pages, as a scriptable server
front    nginx in front of both: www.udemy.com, and the hosts of its files with signed URLs

It is made from what yt-dlp's extractor and other clients of Udemy ask, and from answers that people
published. Field names and classes are the site's own.
"""
