"""Certificates of Envoy's two sides, as secrets that rotate without touching a listener.

New connections use a new certificate; connections and streams that are open keep theirs.
"""

from envoy_data_plane.envoy.config.core.v3 import DataSource, TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from services.router.core.snapshot import TlsMaterial
from services.router.inbound.resources.names import (
    AUTHORITIES_SECRET,
    GATEWAY_SECRET,
    over_ads,
)

_PARAMETERS = TlsParameters(
    tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
    tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
)


def secrets(tls: TlsMaterial) -> list[Secret]:
    own = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=tls.certificate),
        private_key=DataSource(inline_bytes=tls.key),
    )
    trusted = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=tls.authorities))
    if tls.revocations is not None:
        trusted.crl = DataSource(inline_bytes=tls.revocations)
        # As our own servers do. An authority between leaves with the root that it comes from; else
        # each authority of a chain would need a list, and the root's is seldom to be had.
        trusted.only_verify_leaf_cert_crl = True
    return [
        Secret(name=GATEWAY_SECRET, tls_certificate=own),
        Secret(name=AUTHORITIES_SECRET, validation_context=trusted),
    ]


def mutual_tls(trust_domain: str) -> TransportSocket:
    """For a listener: whoever connects shows a certificate of the trust domain."""
    return _socket(
        DownstreamTlsContext(
            common_tls_context=_context(_uri(StringMatcher(prefix=f"spiffe://{trust_domain}/"))),
            require_client_certificate=True,
        )
    )


def server_tls() -> TransportSocket:
    """For a listener whose callers prove who they are in another way."""
    return _socket(DownstreamTlsContext(common_tls_context=_context(None)))


def tls_to(service: str, trust_domain: str) -> TransportSocket:
    """For a cluster: only this service of the mesh may be on the other side."""
    peer = StringMatcher(exact=f"spiffe://{trust_domain}/service/{service}")
    return _socket(
        UpstreamTlsContext(common_tls_context=_context(_uri(peer)), sni=f"{service}.{trust_domain}")
    )


def _socket(context: DownstreamTlsContext | UpstreamTlsContext) -> TransportSocket:
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _context(peer: SubjectAltNameMatcher | None) -> CommonTlsContext:
    context = CommonTlsContext(
        tls_params=_PARAMETERS,
        tls_certificate_sds_secret_configs=[_secret(GATEWAY_SECRET)],
        alpn_protocols=["h2", "http/1.1"],
    )
    if peer is not None:
        context.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(
                match_typed_subject_alt_names=[peer]
            ),
            validation_context_sds_secret_config=_secret(AUTHORITIES_SECRET),
        )
    return context


def _secret(name: str) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=over_ads())


def _uri(matcher: StringMatcher) -> SubjectAltNameMatcher:
    return SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.URI, matcher=matcher)
