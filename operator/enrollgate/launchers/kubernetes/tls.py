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


def use_without_strict(api_client: client.ApiClient) -> None:
    """Let all connections of this Kubernetes client be made without `VERIFY_X509_STRICT`."""
    api_client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = without_strict(
        create_urllib3_context()
    )
