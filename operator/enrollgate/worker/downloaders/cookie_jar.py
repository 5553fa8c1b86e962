"""A cookie jar that the listing and all download threads share.

A course's page may set the cookies that its media need, so every thread must see them.
`http.cookiejar` locks what a request needs, but yt-dlp also reads and saves without the lock.
"""

from enrollgate.worker.downloaders.yt_dlp_compat import YoutubeDLCookieJar


class SharedCookieJar(YoutubeDLCookieJar):  # type: ignore[misc]  # yt-dlp has no types
    """A copy of a cookie jar that several threads may use."""

    def __init__(self, source: YoutubeDLCookieJar) -> None:
        super().__init__(source.filename)
        for cookie in source:
            self.set_cookie(cookie)

    def get_cookies_for_url(self, url: str) -> object:
        """Return the cookies that a request for the URL would carry."""
        with self._cookies_lock:
            return super().get_cookies_for_url(url)

    def save(self, *arguments: object, **options: object) -> None:
        """Write the cookies back to their file."""
        with self._cookies_lock:
            super().save(*arguments, **options)
