"""Small tools that any layer may use.

    backoff       how long to wait before another attempt
    cookies_file  cookies files in the Netscape format
    environment   what a child process inherits of the environment
    files         writing a file atomically, and a file's MD5
    lines         output in lines of a bounded length
    processes     Linux processes, found and signalled safely
    redaction     text without e-mail addresses, credentials and control characters
    retry_after   parsing HTTP's Retry-After
    signals       SIGTERM and SIGINT, handled in a thread

Imports the standard library only. Every other package may import it.
"""
