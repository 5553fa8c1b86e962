"""TLS to the API server: chain and host name are checked, but not every rule of RFC 5280.

Python 3.13 turns `VERIFY_X509_STRICT` on by default. It refuses authorities without the keyUsage
extension and certificates without an authority key identifier, which real clusters have (EKS:
https://github.com/kubernetes-client/python/issues/2394).
"""

import ssl

from kubernetes import client
from urllib3.util.ssl_ import create_urllib3_context


def without_strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Clear only `VERIFY_X509_STRICT` of a context. Returns the same context."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def find_certificate_error(error: BaseException) -> str:
    """Explain a certificate that was refused, with the remedy; empty if `error` is another one.

    Clients wrap the error of TLS in errors of their own, as their cause or an argument.
    """
    pending, seen = [error], set[int]()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        # aiohttp's own error is one by name only: OpenSSL's words are in the error that it wraps.
        words = getattr(found, "verify_message", "")
        if isinstance(found, ssl.SSLCertVerificationError) and words:
            return (
                f"its certificate is refused: {words.rstrip('.')}. Check that the "
                "address is the API server's, and that the CA certificate beside the service "
                "account's token, or in the kubeconfig, is the one that signed its certificate"
            )
        inner = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        pending += [each for each in inner if isinstance(each, BaseException)]
    return ""


def use_without_strict(api_client: client.ApiClient) -> None:
    """Let all connections of this Kubernetes client be made without `VERIFY_X509_STRICT`."""
    api_client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = without_strict(
        create_urllib3_context()
    )
