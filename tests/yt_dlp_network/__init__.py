"""yt-dlp's own network tests, run on our request handler.

scripts/yt-dlp-tests    fetches them with yt-dlp's source package
plugin                  a plugin of pytest that puts our handler in the place of yt-dlp's
refused                 the tests that expect what we refuse by design, with the reasons
"""
