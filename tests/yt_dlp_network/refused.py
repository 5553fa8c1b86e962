"""The tests of yt-dlp that expect what our handler refuses by design, each with the reason.

A test in this list must fail. One that passes, or that no longer exists, fails the run.
"""

_NO_DATA = "data: URLs are refused: only http and https are requested"
_URLLIB = "test_networking.py::TestUrllibRequestHandler"
_VALIDATION = f"{_URLLIB}::test_httplib_validation_errors"
_SCHEME = "test_networking.py::TestRequestHandlerValidation::test_url_scheme"

REFUSED = {
    f"{_URLLIB}::test_file_urls[Urllib]": "file: URLs are refused, even if yt-dlp enables them",
    f"{_URLLIB}::test_data_uri_auto_close[Urllib]": _NO_DATA,
    f"{_URLLIB}::test_data_uri_partial_read_then_full_read[Urllib]": _NO_DATA,
    f"{_URLLIB}::test_data_uri_partial_read_greater_than_response_then_full_read[Urllib]": _NO_DATA,
    f"{_VALIDATION}[req1-URL can't contain control characters-Urllib]": (
        "a URL with white space is refused before urllib sees it, in our own words"
    ),
    f"{_SCHEME}[Urllib-data-False-handler_kwargs2]": _NO_DATA,
    f"{_SCHEME}[Urllib-ftp-False-handler_kwargs3]": "ftp: URLs are refused",
}
