"""Keys and certificates of a cluster, with the library ``cryptography``. No files.

1. A cluster has one certificate authority (CA). It signs a certificate for each key, and nothing else.
2. A key never leaves the process that made it. Its owner sends a certificate signing request (CSR), which proves that
   it has the key. The CA takes nothing else from a request: who the certificate is for is decided by the CA's side.
3. The identity of a member is its public key, not its certificate: certificates are renewed, and an ECDSA signature can
   be rewritten to another valid one by anybody, which changes the fingerprint of a certificate.
4. Keys are on P-256: gRPC's handshakes fail with Ed25519.
5. Certificates are valid from 1970 on. A board without a battery for its clock starts in 1970, and must not be locked
   out until it knows the time. If the controller is such a board, what it issues would have expired by the time that it
   knows. So the life of what is issued before the release of this code is that of an authority, from the release on.

Certificates, keys and requests are PEM. Every function raises SecurityError if what it reads is malformed, longer than
MAX_PEM_BYTES, or of a key that is not on P-256.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgenode.errors import SecurityError
from edgenode.security.invite import FINGERPRINT_BYTES
from edgenode.security.subject import Subject, role_dns_name

CA_LIFE = timedelta(days=3650)
LIFE = timedelta(days=90)
MAX_PEM_BYTES = 16 * 1024
_SINCE = datetime(1970, 1, 1, tzinfo=UTC)
_RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
_MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)  # what the library raises


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key, its certificate, and the CA of the cluster."""

    key: bytes
    certificate: bytes
    authority: bytes

    @property
    def subject(self) -> Subject:
        """The owner of the key, as the certificate names it."""
        return subject_of(self.certificate)

    @property
    def key_id(self) -> str:
        """The id of the key, as `public_key_id`."""
        return public_key_id(self.certificate)

    def expires(self) -> datetime:
        """Return the time at which the certificate stops to be valid, in UTC."""
        return expiry(self.certificate)


def expiry(certificate: bytes) -> datetime:
    """Return the time at which a certificate stops to be valid, in UTC."""
    return _certificate(certificate).not_valid_after_utc


def make_key() -> bytes:
    """A new private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: bytes) -> bytes:
    """A CSR for a key. It proves possession of the key, and names nobody."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_authority(cluster: str) -> Credentials:
    """A CA for a new cluster. Its certificate is its own authority."""
    secret = make_key()
    key, name = private_key(secret), _common_name(cluster)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Credentials(secret, pem, pem)


def issue(authority: Credentials, request: bytes, subject: Subject, life: timedelta = LIFE) -> bytes:
    """A certificate for the key of a CSR, which must be signed by that key."""
    public_key, ca = _requested_key(request), _certificate(authority.certificate)
    ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    names = [x509.DNSName(name) for name in (subject.dns_name, role_dns_name(subject.role))]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if subject.role in ("controller", "node", "relay"):
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    certificate = (
        _builder(ca.subject, _common_name(str(subject)[:64]), public_key, life)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False)
        .sign(private_key(authority.key), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def make_credentials(authority: Credentials, subject: Subject, life: timedelta = LIFE) -> Credentials:
    """A key and its certificate, made on the side of the CA: for the controller itself, and for a demo."""
    key = make_key()
    return Credentials(key, issue(authority, signing_request(key), subject, life), authority.certificate)


def digest(certificate: bytes) -> bytes:
    """SHA-256 over a certificate, in DER."""
    return _certificate(certificate).fingerprint(hashes.SHA256())


def fingerprint(certificate: bytes) -> bytes:
    """Return the part of the CA's certificate that an invite has: the first 128 bits of its `digest`."""
    return digest(certificate)[:FINGERPRINT_BYTES]


def cluster_of(authority: bytes) -> str:
    """The cluster whose CA a certificate is of."""
    names = _certificate(authority).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise SecurityError("the authority's certificate names no cluster")
    return str(names[0].value)


def subject_of(certificate: bytes) -> Subject:
    """Return the owner of the key, as a certificate names it.

    Raises:
        SecurityError: the certificate is malformed, or names nobody.
    """
    return Subject.of_names(_alternative_names(_certificate(certificate)))


def public_key(certificate: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate."""
    with _reading("certificate"):
        key = _certificate(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SecurityError("the key is not on P-256")
    return key


def public_key_id(certificate: bytes) -> str:
    """SHA-256 over the public key (SubjectPublicKeyInfo, DER) of a certificate, in hex: a member's identity."""
    return _key_id(public_key(certificate))


def requested_key_id(request: bytes) -> str:
    """`public_key_id` of the certificate that a CSR asks for."""
    return _key_id(_requested_key(request))


def check_issued(credentials: Credentials) -> None:
    """Check that a certificate is of its key and of its CA. SecurityError if it is not."""
    certificate, ca = _certificate(credentials.certificate), _certificate(credentials.authority)
    if credentials.key_id != _key_id(private_key(credentials.key).public_key()):
        raise SecurityError("the certificate is for another key")
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, *_MALFORMED) as exc:
        raise SecurityError("the certificate is not signed by the cluster's authority") from exc


def _builder(
    issuer: x509.Name, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_SINCE)
        .not_valid_after(end_of_life(life))
    )


def end_of_life(life: timedelta = LIFE) -> datetime:
    """The time at which a certificate that is issued now expires."""
    now = datetime.now(UTC)
    return now + life if now >= _RELEASED else _RELEASED + CA_LIFE


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    with _reading("signing request", request):
        csr = x509.load_pem_x509_csr(request)
        signed, key = csr.is_signature_valid, csr.public_key()
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise SecurityError("the signing request needs a key on P-256, and its signature")
    return key


def _certificate(pem: bytes) -> x509.Certificate:
    with _reading("certificate", pem):
        return x509.load_pem_x509_certificate(pem)


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return found.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *_MALFORMED):
        return []


def private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key from its PEM."""
    with _reading("private key"):
        key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SecurityError("the private key is not on P-256")
    return key


def _key_id(key: ec.EllipticCurvePublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


@contextmanager
def _reading(what: str, pem: bytes = b"") -> Iterator[None]:
    """Refuse what is too long, and translate the library's errors about what is malformed."""
    if len(pem) > MAX_PEM_BYTES:
        raise SecurityError(f"a {what} of {len(pem)} bytes: at most {MAX_PEM_BYTES} are allowed")
    try:
        yield
    except _MALFORMED as exc:
        raise SecurityError(f"the {what} is malformed: {exc}") from exc
